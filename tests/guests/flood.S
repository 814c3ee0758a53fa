# Floods the console for ever.
#include "guest.inc"

_start:
    movl $stack_top, %esp
1:  say "flood: the quick brown fox jumps over the lazy dog, and again, and then once more"
    jmp 1b
