# A triple fault: an invalid instruction, and no IDT to handle it or what follows from it.
#include "guest.inc"

_start:
    movl $stack_top, %esp
    say "triple: now"
    lidt nothing
    ud2
    say "triple: still here"
    finish 1

.section .rodata
nothing:
    .word 0
    .long 0
