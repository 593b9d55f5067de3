// The tiny image's agent for the clipboard: what spice-vdagent is to a desktop, in little.
//
// Speaks the vdagent protocol (spice-protocol, vd_agent.h) on the port com.redhat.spice.0. What the host copies is told on standard output
// as "agent clipboard: TEXT"; what is written into /tmp/copy is the guest's clipboard from then on. The port may be unplugged and plugged
// in again at any time, as it is while a snapshot is taken.

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CLIPBOARD = 4, ANNOUNCE = 6, GRAB = 7, REQUEST = 8 };
enum { PROTOCOL = 1, CLIENT_PORT = 1, BY_DEMAND = 5, UTF8_TEXT = 1 };
enum { MOST = 60000 };

struct chunk { uint32_t port, size; } __attribute__((packed));
struct message { uint32_t protocol, type; uint64_t opaque; uint32_t size; } __attribute__((packed));

static char own[MOST];
static size_t own_size;

static void say(int port, uint32_t type, const void *data, uint32_t size)
{
	static char out[sizeof(struct chunk) + sizeof(struct message) + MOST + 4];
	struct chunk chunk = { CLIENT_PORT, sizeof(struct message) + size };
	struct message message = { PROTOCOL, type, 0, size };
	memcpy(out, &chunk, sizeof chunk);
	memcpy(out + sizeof chunk, &message, sizeof message);
	memcpy(out + sizeof chunk + sizeof message, data, size);
	if (write(port, out, sizeof chunk + chunk.size) < 0)
		perror("agent: write");
}

static void heard(int port, uint32_t type, const char *data, uint32_t size)
{
	static char answer[4 + MOST];
	const uint32_t text = UTF8_TEXT;
	switch (type) {
	case GRAB: // The host has copied something: ask for it.
		say(port, REQUEST, &text, sizeof text);
		break;
	case REQUEST: // The host wants to paste.
		memcpy(answer, &text, 4);
		memcpy(answer + 4, own, own_size);
		say(port, CLIPBOARD, answer, 4 + own_size);
		break;
	case CLIPBOARD:
		if (size > 4)
			printf("agent clipboard: %.*s\n", (int)(size - 4), data + 4);
		fflush(stdout);
		break;
	}
}

// A port's name is in sysfs.
static int open_port(void)
{
	DIR *all = opendir("/sys/class/virtio-ports");
	struct dirent *entry;
	int port = -1;
	while (all && port < 0 && (entry = readdir(all))) {
		char path[300], name[64] = "";
		snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
		FILE *file = fopen(path, "r");
		if (file && fgets(name, sizeof name, file) && !strncmp(name, "com.redhat.spice.0", 18)) {
			snprintf(path, sizeof path, "/dev/%s", entry->d_name);
			port = open(path, O_RDWR);
		}
		if (file)
			fclose(file);
	}
	if (all)
		closedir(all);
	return port;
}

static int read_all(int port, void *into, size_t size)
{
	for (size_t have = 0; have < size;) {
		ssize_t got = read(port, (char *)into + have, size - have);
		if (got <= 0)
			return 0;
		have += got;
	}
	return 1;
}

static void serve(int port, int copy)
{
	static char in[sizeof(struct message) + MOST];
	const uint32_t hello[2] = { 1, 1 << BY_DEMAND }, text = UTF8_TEXT;
	say(port, ANNOUNCE, hello, sizeof hello);
	for (;;) {
		struct pollfd both[2] = { { port, POLLIN, 0 }, { copy, POLLIN, 0 } };
		if (poll(both, 2, -1) < 0)
			return;
		if (both[1].revents & POLLIN) {
			ssize_t got = read(copy, own, sizeof own);
			own_size = got > 0 ? got : 0;
			say(port, GRAB, &text, sizeof text);
		}
		if (both[0].revents & (POLLIN | POLLHUP | POLLERR)) {
			struct chunk chunk;
			struct message message;
			// Messages of the clipboard are small: each comes in one chunk.
			if (!read_all(port, &chunk, sizeof chunk) || chunk.size > sizeof in || !read_all(port, in, chunk.size))
				return;
			memcpy(&message, in, sizeof message);
			if (chunk.size == sizeof message + message.size)
				heard(port, message.type, in + sizeof message, message.size);
		}
	}
}

int main(void)
{
	mkfifo("/tmp/copy", 0600);
	int copy = open("/tmp/copy", O_RDWR);
	for (;;) {
		int port = open_port();
		if (port >= 0) {
			serve(port, copy);
			close(port);
		}
		usleep(200000);
	}
}
