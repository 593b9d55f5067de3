// A desktop that follows the size of the browser's window, in little: with the graphics card virtio-vga it paints the mode that the card
// prefers, and again when that changes. Tells it on standard output as "follow WIDTHxHEIGHT". Kernel mode setting, see drm-kms(7).

#include <fcntl.h>
#include <libdrm/drm.h>
#include <libdrm/drm_mode.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int card;

// One colour for each quarter, so that one can see whether all of it is there.
static void paint(uint32_t *at, uint32_t width, uint32_t height, uint32_t pitch)
{
	for (uint32_t y = 0; y < height; y++)
		for (uint32_t x = 0; x < width; x++)
			at[y * (pitch / 4) + x] = (x < width / 2 ? 0xff0000 : 0x00ff00) | (y < height / 2 ? 0 : 0x0000ff);
}

static int show(uint32_t crtc, uint32_t connector, const struct drm_mode_modeinfo *mode)
{
	struct drm_mode_create_dumb dumb = { .width = mode->hdisplay, .height = mode->vdisplay, .bpp = 32 };
	if (ioctl(card, DRM_IOCTL_MODE_CREATE_DUMB, &dumb))
		return -1;
	struct drm_mode_map_dumb map = { .handle = dumb.handle };
	struct drm_mode_fb_cmd frame = {
		.width = dumb.width, .height = dumb.height, .pitch = dumb.pitch, .bpp = 32, .depth = 24, .handle = dumb.handle,
	};
	if (ioctl(card, DRM_IOCTL_MODE_MAP_DUMB, &map) || ioctl(card, DRM_IOCTL_MODE_ADDFB, &frame))
		return -1;
	void *at = mmap(0, dumb.size, PROT_READ | PROT_WRITE, MAP_SHARED, card, map.offset);
	if (at == MAP_FAILED)
		return -1;
	paint(at, dumb.width, dumb.height, dumb.pitch);
	munmap(at, dumb.size);
	struct drm_mode_crtc set = {
		.set_connectors_ptr = (uintptr_t)&connector, .count_connectors = 1, .crtc_id = crtc, .fb_id = frame.fb_id,
		.mode_valid = 1, .mode = *mode,
	};
	return ioctl(card, DRM_IOCTL_MODE_SETCRTC, &set);
}

int main(void)
{
	static struct drm_mode_modeinfo modes[64];
	uint32_t crtcs[8], connectors[8], width = 0, height = 0;
	card = open("/dev/dri/card0", O_RDWR);
	if (card < 0) {
		perror("follow: /dev/dri/card0");
		return 1;
	}
	for (;; usleep(300000)) {
		struct drm_mode_card_res all = {
			.crtc_id_ptr = (uintptr_t)crtcs, .count_crtcs = 8, .connector_id_ptr = (uintptr_t)connectors, .count_connectors = 8,
		};
		if (ioctl(card, DRM_IOCTL_MODE_GETRESOURCES, &all) || !all.count_crtcs || !all.count_connectors)
			continue;
		// Asked without room for modes, the kernel looks what is connected.
		struct drm_mode_get_connector one = { .connector_id = connectors[0] };
		if (ioctl(card, DRM_IOCTL_MODE_GETCONNECTOR, &one))
			continue;
		one = (struct drm_mode_get_connector){
			.connector_id = connectors[0], .modes_ptr = (uintptr_t)modes, .count_modes = 64,
		};
		if (ioctl(card, DRM_IOCTL_MODE_GETCONNECTOR, &one) || !one.count_modes || one.count_modes > 64)
			continue;
		const struct drm_mode_modeinfo *best = modes;
		for (uint32_t i = 0; i < one.count_modes && !(best->type & DRM_MODE_TYPE_PREFERRED); i++)
			best = &modes[i];
		if (best->hdisplay == width && best->vdisplay == height)
			continue;
		if (show(crtcs[0], connectors[0], best)) {
			perror("follow");
			continue;
		}
		width = best->hdisplay;
		height = best->vdisplay;
		printf("follow %ux%u\n", width, height);
		fflush(stdout);
	}
}
