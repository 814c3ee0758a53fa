/*
 * The reference of `floor`: the same system calls in C, so that it can be seen that Rust adds nothing to them.
 * Usage: floor SIZE_IN_MIB; prints "mark NS CPU_NS".
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MARK = 0x700, STOP = 0x600, ENTRY = 0x1000 };
#define HOLE 0xc0000000ull
#define AFTER_HOLE 0x100000000ull

static const unsigned char guest[] = {
	0xba, 0x00, 0x07,       /* mov dx, 0x700 */
	0xb0, 0x80,             /* mov al, 0x80 */
	0xee,                   /* out dx, al */
	0xba, 0x00, 0x06,       /* mov dx, 0x600 */
	0xee,                   /* out dx, al */
	0xf4,                   /* hlt */
};

static struct {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[256];
} cpuid = { .head.nent = 256 };

static int check(int result, const char *what)
{
	if (result < 0)
		err(125, "%s", what);
	return result;
}

static unsigned long long now(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int main(int argc, char **argv)
{
	unsigned long long size = (argc == 2 ? strtoull(argv[1], 0, 10) : 0) << 20;
	if (!size)
		errx(125, "usage: floor SIZE_IN_MIB");

	int kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "open /dev/kvm");
	int vm = check(ioctl(kvm, KVM_CREATE_VM, 0ul), "KVM_CREATE_VM");

	unsigned char *ram = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ram == MAP_FAILED)
		err(125, "mmap");
	memcpy(ram + ENTRY, guest, sizeof guest);
	unsigned long long low = size < HOLE ? size : HOLE;
	struct kvm_userspace_memory_region slot = { .memory_size = low, .userspace_addr = (unsigned long)ram };
	check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	if (size > low) {
		struct kvm_userspace_memory_region high = { .slot = 1, .guest_phys_addr = AFTER_HOLE,
			.memory_size = size - low, .userspace_addr = (unsigned long)(ram + low) };
		check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &high), "KVM_SET_USER_MEMORY_REGION");
	}

	check(ioctl(vm, KVM_CREATE_IRQCHIP, 0ul), "KVM_CREATE_IRQCHIP");
	int vcpu = check(ioctl(vm, KVM_CREATE_VCPU, 0ul), "KVM_CREATE_VCPU");
	int run_size = check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0ul), "KVM_GET_VCPU_MMAP_SIZE");
	struct kvm_run *run = mmap(0, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		err(125, "mmap vCPU");

	check(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
	check(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
	struct kvm_sregs sregs;
	check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	struct kvm_regs regs = { .rip = ENTRY, .rflags = 2 };
	check(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");

	unsigned long long mark = 0, cpu = 0;
	for (;;) {
		check(ioctl(vcpu, KVM_RUN, 0ul), "KVM_RUN");
		if (run->exit_reason != KVM_EXIT_IO)
			errx(125, "KVM_RUN: exit reason %u", run->exit_reason);
		if (run->io.port == STOP)
			break;
		mark = now(CLOCK_MONOTONIC);
		cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	}
	dprintf(1, "mark %llu %llu\n", mark, cpu);
	_exit(0);
}
