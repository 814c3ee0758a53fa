# Ends with the status that its command line names: `status=N`.
#include "guest.inc"

.set START_INFO_MAGIC, 0x336ec578
.set CMDLINE, 24                # cmdline_paddr in hvm_start_info

_start:
    movl $stack_top, %esp
    movl (%ebx), %eax
    expect %eax, START_INFO_MAGIC, "exit: EBX is not at a start info"
    movl CMDLINE(%ebx), %esi

    # Every place in the command line, until one has the word.
find:
    cmpb $0, (%esi)
    je missing
    cmpl $0x74617473, (%esi)    # "stat"
    jne 1f
    cmpw $0x7375, 4(%esi)       # "us"
    jne 1f
    cmpb $'=', 6(%esi)
    je found
1:  incl %esi
    jmp find

missing:
    say "exit: no status= on the command line"
    finish 1

found:
    addl $7, %esi
    xorl %ebx, %ebx
1:  movzbl (%esi), %eax
    subl $'0', %eax
    cmpl $9, %eax
    ja 2f                       # unsigned: anything but a digit
    imull $10, %ebx
    addl %eax, %ebx
    incl %esi
    jmp 1b
2:  say "exit: with the status asked for"
    movb %bl, %al
    jmp finish
