# Sends back what it receives on COM1, until an end of transmission (Ctrl-D).
#include "guest.inc"

.set END_OF_TRANSMISSION, 4

_start:
    movl $stack_top, %esp
    say "echo: ready"
1:  movw $(COM1 + 5), %dx       # line status
    inb %dx, %al
    testb $1, %al               # data ready
    jz 1b
    movw $COM1, %dx
    inb %dx, %al
    cmpb $END_OF_TRANSMISSION, %al
    je 2f
    call put
    jmp 1b
2:  say "\necho: done"
    finish 0
