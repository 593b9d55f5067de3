/*
 * fbdemo: a picture for a guest that has nothing but a frame buffer.
 *
 * Draws a small "desktop" on /dev/fb0: a panel with a clock, colour bars, a field that shows what is typed, the last key, and a pointer
 * that follows a tablet or mouse. Every key and button is also told on standard output, which the init script puts on the serial
 * console, so that a test can compare what it sent with what the guest saw:
 *
 *   fbdemo 1024x768x32 ready
 *   fbdemo key 30
 *   fbdemo button 0 1 at 512 384
 *
 * Built static: cc -static -Os -s -o fbdemo fbdemo.c
 */
#include <fcntl.h>
#include <linux/fb.h>
#include <linux/input.h>
#include <linux/kd.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { DEVICES = 16, GLYPH_W = 5, GLYPH_H = 7, PANEL = 44 };

/* A 5x7 font: the character, then its cells row by row from the top left. */
static const char *const GLYPHS[] = {
    "A01110100011000111111100011000110001", "B11110100011000111110100011000111110", "C01110100011000010000100001000101110",
    "D11110100011000110001100011000111110", "E11111100001000011110100001000011111", "F11111100001000011110100001000010000",
    "G01110100011000010111100011000101110", "H10001100011000111111100011000110001", "I01110001000010000100001000010001110",
    "J00111000100001000010000101001001100", "K10001100101010011000101001001010001", "L10000100001000010000100001000011111",
    "M10001110111010110101100011000110001", "N10001110011010110011100011000110001", "O01110100011000110001100011000101110",
    "P11110100011000111110100001000010000", "Q01110100011000110001101011001001101", "R11110100011000111110101001001010001",
    "S01111100001000001110000010000111110", "T11111001000010000100001000010000100", "U10001100011000110001100011000101110",
    "V10001100011000110001100010101000100", "W10001100011000110101101011101110001", "X10001100010101000100010101000110001",
    "Y10001100010101000100001000010000100", "Z11111000010001000100010001000011111", "001110100011001110101110011000101110",
    "100100011000010000100001000010001110", "201110100010000100010001000100011111", "311111000100010000010000011000101110",
    "400010001100101010010111110001000010", "511111100001111000001000011000101110", "600110010001000011110100011000101110",
    "711111000010001000100010000100001000", "801110100011000101110100011000101110", "901110100011000101111000010001001100",
    ":00000001000010000000001000010000000", ".00000000000000000000000000110001100", "-00000000000000011111000000000000000",
    "/00000000010001000100010001000000000", "_00000000000000000000000000000011111", "+00000001000010011111001000010000000",
    "=00000000001111100000111110000000000", ",00000000000000000000001100010001000", "'00100001000100000000000000000000000",
};

/* What the keys of a US keyboard write, by key code; 0 is nothing. */
static const char KEYS[] = "\0\0331234567890-=\b\tQWERTYUIOP[]\n\0ASDFGHJKL;'`\0\\ZXCVBNM,./\0*\0 ";

static const uint32_t BARS[] = {0xffffff, 0xffff00, 0x00ffff, 0x00ff00, 0xff00ff, 0xff0000, 0x0000ff, 0x000000};

struct device {
    struct pollfd poll;
    int open;
    int max_x, max_y; /* of an absolute pointer; 0 for a mouse */
};

static uint8_t *screen;
static uint32_t *canvas; /* drawn here, then copied: no flicker */
static int width, height, stride, depth;
static int pointer_x = 100, pointer_y = 100, buttons;
static char typed[48], last_key[32] = "NONE";

static void fill(int x, int y, int w, int h, uint32_t colour) {
    for (int j = y < 0 ? 0 : y; j < y + h && j < height; j++)
        for (int i = x < 0 ? 0 : x; i < x + w && i < width; i++) canvas[j * width + i] = colour;
}

static void write_text(int x, int y, int size, uint32_t colour, const char *text) {
    for (; *text; text++, x += (GLYPH_W + 1) * size) {
        char wanted = *text >= 'a' && *text <= 'z' ? *text - 32 : *text;
        for (size_t g = 0; g < sizeof GLYPHS / sizeof *GLYPHS; g++) {
            if (GLYPHS[g][0] != wanted) continue;
            for (int cell = 0; cell < GLYPH_W * GLYPH_H; cell++)
                if (GLYPHS[g][1 + cell] == '1') fill(x + cell % GLYPH_W * size, y + cell / GLYPH_W * size, size, size, colour);
        }
    }
}

static void draw_pointer(void) {
    for (int row = 0; row < 24; row++) {
        int span = (row < 17 ? row : 24 - row) * 2 / 3 + 1;
        fill(pointer_x, pointer_y + row, span + 2, 1, 0x101820);
        if (row > 1 && row < 22) fill(pointer_x + 1, pointer_y + row, span - 1, 1, buttons ? 0xff4040 : 0xffffff);
    }
}

static void draw(void) {
    for (int y = 0; y < height; y++) {
        int red = 18 + y * 30 / height, green = 44 + y * 70 / height, blue = 84 + y * 90 / height;
        fill(0, y, width, 1, (uint32_t)red << 16 | (uint32_t)green << 8 | (uint32_t)blue);
    }
    char text[64];
    time_t now = time(NULL);
    strftime(text, sizeof text, "%H:%M:%S", gmtime(&now));
    fill(0, 0, width, PANEL, 0x16202c);
    write_text(16, 12, 3, 0xffffff, "VM-SHARE");
    write_text(width - 176, 12, 3, 0xffd060, text);
    write_text(60, 90, 8, 0xffffff, "HELLO");
    write_text(60, 170, 4, 0xa8e0ff, "TYPE, AND MOVE THE MOUSE");
    for (size_t i = 0; i < sizeof BARS / sizeof *BARS; i++) fill(60 + (int)i * 60, 230, 60, 40, BARS[i]);
    fill(56, 296, width - 112, 68, 0x16202c);
    fill(60, 300, width - 120, 60, 0xf4f6f8);
    write_text(76, 316, 4, 0x16202c, typed);
    snprintf(text, sizeof text, "KEY %s", last_key);
    write_text(60, 392, 4, 0xffffff, text);
    snprintf(text, sizeof text, "POINTER %d %d   BUTTONS %d", pointer_x, pointer_y, buttons);
    write_text(60, 436, 4, 0xffffff, text);
    fill(0, height - 32, width, 32, 0x16202c);
    write_text(16, height - 23, 2, 0xb8c4d0, "THIS IS A REAL LINUX MACHINE. A ROOT SHELL: ALT+F2 OR THE SERIAL CONSOLE.");
    draw_pointer();
    for (int y = 0; y < height; y++) {
        const uint32_t *from = canvas + y * width;
        uint8_t *to = screen + y * stride;
        if (depth == 4) {
            memcpy(to, from, (size_t)width * 4);
            continue;
        }
        for (int x = 0; x < width; x++) /* 5-6-5 */
            ((uint16_t *)to)[x] = (uint16_t)((from[x] >> 8 & 0xf800) | (from[x] >> 5 & 0x7e0) | (from[x] >> 3 & 0x1f));
    }
}

static int clamp(int value, int limit) { return value < 0 ? 0 : value >= limit ? limit - 1 : value; }

static void press(unsigned code) {
    snprintf(last_key, sizeof last_key, "CODE %u", code);
    printf("fbdemo key %u\n", code);
    char c = code < sizeof KEYS - 1 ? KEYS[code] : 0;
    size_t length = strlen(typed);
    if (c == '\b' && length > 0) typed[length - 1] = 0;
    if (c == '\n') typed[0] = 0;
    if (c >= ' ' && length < sizeof typed - 1) {
        typed[length] = c;
        typed[length + 1] = 0;
    }
}

static void handle(const struct device *device, const struct input_event *event) {
    switch (event->type) {
    case EV_ABS:
        if (event->code == ABS_X && device->max_x) pointer_x = (int)((long)event->value * (width - 1) / device->max_x);
        if (event->code == ABS_Y && device->max_y) pointer_y = (int)((long)event->value * (height - 1) / device->max_y);
        break;
    case EV_REL:
        if (event->code == REL_X) pointer_x += event->value;
        if (event->code == REL_Y) pointer_y += event->value;
        break;
    case EV_KEY:
        if (event->code >= BTN_LEFT && event->code <= BTN_MIDDLE) {
            int bit = 1 << (event->code - BTN_LEFT);
            buttons = event->value ? buttons | bit : buttons & ~bit;
            printf("fbdemo button %d %d at %d %d\n", event->code - BTN_LEFT, event->value, pointer_x, pointer_y);
        } else if (event->value == 1) {
            press(event->code);
        }
        break;
    }
    pointer_x = clamp(pointer_x, width);
    pointer_y = clamp(pointer_y, height);
}

/* USB devices come some seconds after the first picture. */
static int open_new(struct device *devices, int count) {
    for (int i = 0; i < DEVICES; i++) {
        int known = 0;
        for (int d = 0; d < count; d++) known |= devices[d].open == i;
        if (known || count == DEVICES) continue;
        char path[32];
        snprintf(path, sizeof path, "/dev/input/event%d", i);
        int file = open(path, O_RDONLY | O_NONBLOCK);
        if (file < 0) continue;
        struct input_absinfo x = {0}, y = {0};
        int absolute = ioctl(file, EVIOCGABS(ABS_X), &x) == 0 && ioctl(file, EVIOCGABS(ABS_Y), &y) == 0;
        devices[count].poll = (struct pollfd){.fd = file, .events = POLLIN};
        devices[count].open = i;
        devices[count].max_x = absolute ? x.maximum : 0;
        devices[count].max_y = absolute ? y.maximum : 0;
        count++;
    }
    return count;
}

static int open_screen(void) {
    int file = open("/dev/fb0", O_RDWR);
    struct fb_var_screeninfo mode;
    struct fb_fix_screeninfo memory;
    if (file < 0 || ioctl(file, FBIOGET_VSCREENINFO, &mode) || ioctl(file, FBIOGET_FSCREENINFO, &memory)) return -1;
    width = (int)mode.xres;
    height = (int)mode.yres;
    depth = (int)mode.bits_per_pixel / 8;
    stride = (int)memory.line_length;
    screen = mmap(NULL, (size_t)stride * height, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    canvas = malloc((size_t)width * height * sizeof *canvas);
    return screen == MAP_FAILED || canvas == NULL ? -1 : 0;
}

int main(void) {
    if (open_screen()) {
        perror("fbdemo: /dev/fb0");
        return 1;
    }
    int console = open("/dev/tty1", O_RDWR);
    if (console >= 0) ioctl(console, KDSETMODE, KD_GRAPHICS);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("fbdemo %dx%dx%d ready\n", width, height, depth * 8);
    struct device devices[DEVICES];
    struct pollfd polls[DEVICES];
    int count = 0;
    for (time_t drawn = 0;;) {
        for (int i = 0; i < count; i++) polls[i] = devices[i].poll;
        int changed = 0;
        if (poll(polls, (nfds_t)count, 1000) > 0) {
            for (int i = 0; i < count; i++) {
                struct input_event event;
                while (polls[i].revents && read(polls[i].fd, &event, sizeof event) == sizeof event) {
                    handle(&devices[i], &event);
                    changed = 1;
                }
            }
        }
        time_t now = time(NULL);
        if (now != drawn) count = open_new(devices, count);
        if (changed || now != drawn) draw();
        drawn = now;
    }
}
