# Resets the machine by the keyboard controller.
#include "guest.inc"

_start:
    movl $stack_top, %esp
    say "reset: by the keyboard controller"
    out I8042_COMMAND, 0xfe     # pulse output line 0, which is the processor's reset
    jmp halt
