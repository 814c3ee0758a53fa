# The x86/HVM direct boot ABI (Xen, docs/misc/pvh.pandoc; xen/include/public/arch-x86/hvm/start_info.h).
#include "headers.inc"
#include "check.inc"
#include "start_info.inc"

pvh_note _start

.set START_INFO_MAGIC, 0x336ec578

.text
.globl _start
_start:
    movl $stack_top, %esp
    pushfl
    popl %eax
    testl $0x20300, %eax        # VM, IF, TF
    must z, "EFLAGS has VM, IF or TF"
    movl %cr0, %eax
    andl $~0x10, %eax           # ET may be either
    cmpl $1, %eax
    must e, "CR0 is not PE alone"
    movl %cr4, %eax
    testl %eax, %eax
    must z, "CR4 is not 0"
    cmpl $START_INFO_MAGIC, (%ebx)
    must e, "EBX is not at a start info"
    cmpl $1, 4(%ebx)
    must ae, "a start info without memory map"
    call take_start_info
    call check
    say "pvh: pass"
    finish 0
