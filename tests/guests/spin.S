# Says that it spins, and does.
#include "guest.inc"

_start:
    movl $stack_top, %esp
    say "spin: for ever"
1:  jmp 1b
