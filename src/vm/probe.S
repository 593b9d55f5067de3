# The guest of the accelerator's trial: three sectors that walk where boot loaders and kernels walk.
#
# A KVM that opens, makes a machine and runs the BIOS may still die in the first boot loader. So this goes from real mode
# through the BIOS, protected mode, back to real mode and again to long mode with paging, faults and timer interrupts on the
# way, and tells each stage by one letter on the debug console (port 0xe9). At the end it writes its marker and leaves by the
# debug exit (port 0xf4): 0x2a, so QEMU ends with (0x2a << 1) | 1 = 85. Whatever goes wrong writes "!" and leaves with 255, or
# never arrives: an unexpected exception has no handler, so the machine resets, and -no-reboot ends QEMU with 0.
#
# Assembled, not linked, so that an assembler is all it takes:
#     as --64 -o probe.o probe.S && objcopy -O binary -j .text probe.o probe.bin
# Sources: Intel SDM vol. 3A, chapters 4 (paging), 6 (interrupts), 9.8 (long mode), 9.9 (mode switches); QEMU's
# docs/specs on isa-debug-exit; the BIOS calls of Ralf Brown's list.

        .set    BASE, 0x7c00            # where the BIOS puts the first sector
        .set    TABLES, 0x10000         # page tables: PML4, PDPT, PD, one page each
        .set    IDT, 0x13000            # the interrupt table, one page
        .set    HIGH, 0x100000          # memory above the first megabyte
        .set    STACK, 0x7000
        .set    CODE32, 0x08
        .set    DATA32, 0x10
        .set    CODE16, 0x18
        .set    DATA16, 0x20
        .set    CODE64, 0x28

        .macro  tell letter
        movb    $\letter, %al
        outb    %al, $0xe9
        .endm

        .text
        .code16
start:  ljmp    $0, $(begin - start + BASE)     # some BIOSes start at 0x07c0:0
begin:  cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $STACK, %sp
        cld
        sti
        movw    $0x0202, %ax            # BIOS: read two sectors,
        movw    $(BASE + 512), %bx      # to behind this one,
        movw    $0x0002, %cx            # from cylinder 0, sector 2,
        movb    $0, %dh                 # head 0, from the drive (dl) we are from
        int     $0x13
        jc      fail16
        tell    'R'
        cli
        inb     $0x92, %al              # address line 20 on, by the fast gate
        orb     $2, %al
        andb    $0xfe, %al
        outb    %al, $0x92
        lgdtl   (gdt_at - start + BASE)
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmp    $CODE32, $(first32 - start + BASE)
fail16: tell    '!'
        movb    $0x7f, %al
        outb    %al, $0xf4
        hlt

# Protected mode, once round: write and read memory that real mode cannot reach.
        .code32
first32:
        movw    $DATA32, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $STACK, %esp
        movl    $HIGH, %edi
        movl    $0x10000, %ecx
        movl    $0x5ac3a55a, %eax
        rep stosl
        movl    $HIGH, %edi
        movl    $0x10000, %ecx
        repe scasl
        jne     fail32
        tell    'P'
        ljmp    $CODE16, $(back16 - start + BASE)
fail32: tell    '!'
        movb    $0x7f, %al
        outb    %al, $0xf4
        hlt

# Back to real mode for a BIOS call, as a boot loader does for every block it reads.
        .code16
back16: movw    $DATA16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    %cr0, %eax
        andb    $0xfe, %al
        movl    %eax, %cr0
        ljmp    $0, $(real16 - start + BASE)
real16: xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $STACK, %sp
        sti
        int     $0x12                   # BIOS: how many KiB below the first megabyte
        cmpw    $512, %ax
        jb      fail16
        tell    'B'
        cli
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmp    $CODE32, $(second32 - start + BASE)

        .org    510
        .word   0xaa55                  # the BIOS boots only what says so

# Protected mode again: page tables for 32 MB in pages of 2 MB, each address itself, and on to long mode.
        .code32
second32:
        movw    $DATA32, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $STACK, %esp
        movl    $0x80000001, %eax       # can the processor do it?
        cpuid
        btl     $29, %edx
        jnc     fail32
        movl    $TABLES, %edi
        movl    $0x1000, %ecx           # four pages of zeroes: the tables and the IDT
        xorl    %eax, %eax
        rep stosl
        movl    $(TABLES + 0x1003), TABLES
        movl    $(TABLES + 0x2003), TABLES + 0x1000
        movl    $(TABLES + 0x2000), %edi
        movl    $0x83, %eax             # present, writable, large
        movl    $16, %ecx
1:      movl    %eax, (%edi)
        addl    $0x200000, %eax
        addl    $8, %edi
        loop    1b
        movl    %cr4, %eax
        orl     $0x620, %eax            # PAE, and SSE with its exceptions
        movl    %eax, %cr4
        movl    $TABLES, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       # EFER
        rdmsr
        btsl    $8, %eax                # long mode enable
        wrmsr
        movl    %cr0, %eax
        andl    $0xfffffffb, %eax       # no emulated FPU
        orl     $0x80000002, %eax       # paging
        movl    %eax, %cr0
        ljmp    $CODE64, $(long64 - start + BASE)

        .code64
long64: xorl    %eax, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    $STACK, %esp
        tell    'L'

# Faults: an undefined instruction and an unmapped address must both come to their handlers and go on.
        movl    $((CODE64 << 16) + (undefined - start + BASE)), IDT + 6 * 16
        movl    $0x8e00, IDT + 6 * 16 + 4
        movl    $((CODE64 << 16) + (unmapped - start + BASE)), IDT + 14 * 16
        movl    $0x8e00, IDT + 14 * 16 + 4
        movl    $((CODE64 << 16) + (tick - start + BASE)), IDT + 32 * 16
        movl    $0x8e00, IDT + 32 * 16 + 4
        lidt    (idt_at - start + BASE)
        xorl    %r8d, %r8d
        xorl    %r9d, %r9d
        xorl    %ebx, %ebx
        ud2
        movl    $0x40000000, %edi
        movb    (%rdi), %al
        movq    %cr2, %rax
        cmpq    %rdi, %rax
        jne     fail64
        cmpl    $1, %r8d
        jne     fail64
        cmpl    $1, %r9d
        jne     fail64
        tell    'F'

# Strings, SSE, model specific registers.
        movl    $HIGH, %esi
        movl    $(HIGH + 0x100000), %edi
        movl    $0x8000, %ecx
        rep movsq
        movl    $HIGH, %esi
        movl    $(HIGH + 0x100000), %edi
        movl    $0x8000, %ecx
        repe cmpsq
        jne     fail64
        movdqu  HIGH, %xmm0
        pxor    HIGH + 0x100000, %xmm0
        movq    %xmm0, %rax
        testq   %rax, %rax
        jnz     fail64
        movl    $0xc0000100, %ecx       # the base of FS
        movl    $0x12345678, %eax
        xorl    %edx, %edx
        wrmsr
        rdmsr
        cmpl    $0x12345678, %eax
        jne     fail64
        tell    'S'

# Three ticks of the timer, slept for.
        movb    $0x11, %al              # both interrupt controllers: begin,
        outb    %al, $0x20
        outb    %al, $0xa0
        movb    $0x20, %al              # vectors from 32 and 40,
        outb    %al, $0x21
        movb    $0x28, %al
        outb    %al, $0xa1
        movb    $4, %al                 # one behind line 2 of the other,
        outb    %al, $0x21
        movb    $2, %al
        outb    %al, $0xa1
        movb    $1, %al                 # 8086 manner,
        outb    %al, $0x21
        outb    %al, $0xa1
        movb    $0xff, %al              # and only line 0, the timer, open
        outb    %al, $0xa1
        movb    $0xfe, %al
        outb    %al, $0x21
        movb    $0x34, %al              # timer: every 4096 cycles of 1.19 MHz
        outb    %al, $0x43
        xorl    %eax, %eax
        outb    %al, $0x40
        movb    $0x10, %al
        outb    %al, $0x40
1:      sti
        hlt
        cli
        cmpl    $3, %ebx
        jb      1b
        movl    $1000000, %ecx          # and a while of plain work
2:      decl    %ecx
        jnz     2b
        movl    $(marker - start + BASE), %esi
        movl    $(marker_end - marker), %ecx
        movw    $0xe9, %dx
        rep outsb
        movb    $0x2a, %al
        outb    %al, $0xf4
3:      hlt
        jmp     3b

fail64: tell    '!'
        movb    $0x7f, %al
        outb    %al, $0xf4
        hlt

undefined:                              # behind the two bytes of ud2
        incl    %r8d
        addq    $2, (%rsp)
        iretq
unmapped:                               # drop the error code, step over the two bytes of the load
        incl    %r9d
        addq    $8, %rsp
        addq    $2, (%rsp)
        iretq
tick:   incl    %ebx
        pushq   %rax
        movb    $0x20, %al
        outb    %al, $0x20
        popq    %rax
        iretq

marker: .ascii  "T vm-share probe ok\n"
marker_end:
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9a000000ffff      # CODE32
        .quad   0x00cf92000000ffff      # DATA32
        .quad   0x00009a000000ffff      # CODE16
        .quad   0x000092000000ffff      # DATA16
        .quad   0x00af9a000000ffff      # CODE64
gdt_at: .word   gdt_at - gdt - 1
        .long   gdt - start + BASE
idt_at: .word   0xfff
        .quad   IDT
        .org    1536
