# An address that nobody claims reads all ones, whatever the width and whatever was written.
#include "guest.inc"

.set UNCLAIMED, 0xfd000000      # in the 32-bit hole, between PCI ECAM and the IOAPIC

_start:
    movl $stack_top, %esp
    movl UNCLAIMED, %eax
    expect %eax, 0xffffffff, "mmio: four bytes are not all ones"
    movl $0x12345678, UNCLAIMED
    movl UNCLAIMED, %eax
    expect %eax, 0xffffffff, "mmio: four bytes are not all ones after a write"
    movw UNCLAIMED + 6, %ax
    expect %ax, 0xffff, "mmio: two bytes are not all ones"
    movb UNCLAIMED + 3, %al
    expect %al, 0xff, "mmio: a byte is not all ones"
    say "mmio: all ones"
    finish 0
