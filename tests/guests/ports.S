# A port that nobody claims reads all ones; the RTC and COM1 answer.
#include "guest.inc"

.set UNCLAIMED, 0x2000
.set RTC_STATUS_D, 0x0d         # Motorola MC146818A: bit 7 is "valid RAM and time", the others read zero

_start:
    movl $stack_top, %esp
    movw $UNCLAIMED, %dx
    inl %dx, %eax
    expect %eax, 0xffffffff, "ports: four bytes are not all ones"
    outl %eax, %dx
    inw %dx, %ax
    expect %ax, 0xffff, "ports: two bytes are not all ones"
    inb %dx, %al
    expect %al, 0xff, "ports: a byte is not all ones"
    out CMOS_INDEX, RTC_STATUS_D
    movw $(CMOS_INDEX + 1), %dx
    inb %dx, %al
    expect %al, 0x80, "ports: the RTC does not say that its time is valid"
    movw $(COM1 + 5), %dx       # line status
    inb %dx, %al
    expect %al, 0x60, "ports: COM1 is not idle, with its transmitter empty"
    say "ports: all as they should be"
    finish 0
