# Multiboot 0.6.96: as an ELF file, or as an image that its header describes.
#include "headers.inc"
#include "check.inc"

.set FLAGS, MULTIBOOT_PAGE_ALIGN | MULTIBOOT_MEMORY_INFO
#ifdef FLAT
.section .header, "a"
    .long MULTIBOOT_MAGIC, FLAGS | MULTIBOOT_AOUT_KLUDGE, -(MULTIBOOT_MAGIC + (FLAGS | MULTIBOOT_AOUT_KLUDGE))
    .long image_start           # header_addr
    .long image_start           # load_addr
    .long data_end              # load_end_addr
    .long image_end             # bss_end_addr
    .long _start                # entry_addr
#else
multiboot_header FLAGS
#endif

.set BOOTED, 0x2badb002
# Fields of the information are there: memory, command line, modules, memory map, boot loader's name.
.set INFO_MEMORY, 1 << 0
.set INFO_CMDLINE, 1 << 2
.set INFO_MODULES, 1 << 3
.set INFO_MAP, 1 << 6
.set INFO_LOADER, 1 << 9
.set INFO_ALL, INFO_MEMORY | INFO_CMDLINE | INFO_MAP | INFO_LOADER

.text
.globl _start
_start:
    movl $stack_top, %esp
    cmpl $BOOTED, %eax
    must e, "EAX is not Multiboot's magic number"
    pushfl
    popl %eax
    testl $0x20200, %eax        # VM, IF
    must z, "EFLAGS has VM or IF"
    movl %cr0, %eax
    andl $0x80000001, %eax      # PG, PE
    cmpl $1, %eax
    must e, "CR0 is not PE without PG"
    cmpl $0, bss_probe
    must e, ".bss is not zero"

    movl (%ebx), %eax
    movl %eax, %ecx
    andl $INFO_ALL, %ecx
    cmpl $INFO_ALL, %ecx
    must e, "a field of the information is missing"
    movl 4(%ebx), %ecx          # mem_lower
    cmpl $640, %ecx
    must be, "mem_lower is above 640"
    cmpl $512, %ecx
    must ae, "mem_lower is below 512"
    cmpl $16384, 8(%ebx)        # mem_upper
    must ae, "mem_upper is below 16 MiB"
    movl 64(%ebx), %ecx         # boot_loader_name
    cmpb $0, (%ecx)
    must ne, "the boot loader has no name"
    movl 16(%ebx), %ecx
    movl %ecx, cmdline

    testl $INFO_MODULES, %eax
    jz 2f
    movl 20(%ebx), %ecx
    movl %ecx, module_count
    cmpl $8, %ecx
    must be, "too many modules"
    movl 24(%ebx), %esi
    movl $modules, %edi
1:  jecxz 2f
    movsl                       # start, end, string; four reserved bytes
    movsl
    movsl
    addl $4, %esi
    decl %ecx
    jmp 1b

    # Entries are preceded by their size, which does not include itself.
2:  movl 48(%ebx), %esi
    movl 44(%ebx), %eax
    movl $20, %edx
    cmpl $20, (%esi)
    must e, "an entry of the memory map has no 20 bytes"
    xorl %edx, %edx
    movl $24, %ecx
    divl %ecx
    movl %eax, %ecx
    movl $24, %edx
    addl $4, %esi
    call take_map
    call check
    say "multiboot1: pass"
    finish 0

.bss
bss_probe: .skip 4
