# Multiboot 2 (2.0), with a request for all that is checked.
#include "headers.inc"
#include "check.inc"

.set MAGIC, 0xe85250d6
.set BOOTED, 0x36d76289
.set OPTIONAL, 1
# Types of the information's tags.
.set END, 0
.set CMDLINE, 1
.set LOADER, 2
.set MODULE, 3
.set MEMORY, 4
.set MAP, 6
.set ACPI_OLD, 14
.set ACPI_NEW, 15
# Of the header's.
.set REQUEST, 1
.set MODULE_ALIGN, 6

.section .header, "a"
.balign 8
header:
    .long MAGIC, 0, header_end - header, -(MAGIC + (header_end - header))
    .word REQUEST, 0
    .long 24
    .long CMDLINE, LOADER, MEMORY, MAP
    .word REQUEST, OPTIONAL
    .long 16
    .long ACPI_OLD, ACPI_NEW
    .word MODULE_ALIGN, 0
    .long 8
    .word END, 0
    .long 8
header_end:

.text
.globl _start
_start:
    movl $stack_top, %esp
    cmpl $BOOTED, %eax
    must e, "EAX is not Multiboot 2's magic number"
    testl $7, %ebx
    must z, "the information is not aligned"
    pushfl
    popl %eax
    testl $0x20200, %eax        # VM, IF
    must z, "EFLAGS has VM or IF"
    movl %cr0, %eax
    andl $0x80000001, %eax      # PG, PE
    cmpl $1, %eax
    must e, "CR0 is not PE without PG"

    movl %ebx, %ebp
    addl (%ebx), %ebp           # total_size
    addl $8, %ebx
    movl $modules, %edi
tag:
    cmpl %ebp, %ebx
    must b, "the information has no last tag"
    movl (%ebx), %eax
    cmpl $31, %eax
    ja 1f
    btsl %eax, seen
1:  leal 8(%ebx), %esi
    cmpl $END, %eax
    je all
    cmpl $CMDLINE, %eax
    jne 1f
    movl %esi, cmdline
1:  cmpl $LOADER, %eax
    jne 1f
    cmpb $0, (%esi)
    must ne, "the boot loader has no name"
1:  cmpl $MEMORY, %eax
    jne 1f
    cmpl $512, (%esi)
    must ae, "mem_lower is below 512"
    cmpl $16384, 4(%esi)
    must ae, "mem_upper is below 16 MiB"
1:  cmpl $MODULE, %eax
    jne 1f
    cmpl $8, module_count
    must b, "too many modules"
    incl module_count
    movsl
    movsl
    movl %esi, %eax
    stosl
    movl (%ebx), %eax
1:  cmpl $MAP, %eax
    jne 1f
    pushl %edi
    movl (%esi), %ecx           # entry_size
    movl 4(%ebx), %eax
    subl $16, %eax
    xorl %edx, %edx
    divl %ecx
    movl %ecx, %edx
    movl %eax, %ecx
    leal 8(%esi), %esi
    call take_map
    popl %edi
    movl (%ebx), %eax
1:  cmpl $ACPI_NEW, %eax
    je 2f
    cmpl $ACPI_OLD, %eax
    jne 3f
    cmpl $0, rsdp
    jne 3f
2:  leal 8(%ebx), %ecx
    movl %ecx, rsdp
3:  movl 4(%ebx), %eax
    addl $7, %eax
    andl $~7, %eax
    addl %eax, %ebx
    jmp tag

all:
    movl seen, %eax
    andl $(1 << CMDLINE | 1 << LOADER | 1 << MEMORY | 1 << MAP), %eax
    cmpl $(1 << CMDLINE | 1 << LOADER | 1 << MEMORY | 1 << MAP), %eax
    must e, "a tag that was asked for is missing"
    call check
    say "multiboot2: pass"
    finish 0

.bss
.balign 4
seen: .skip 4
