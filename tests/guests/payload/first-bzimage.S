# Entered by Linux's boot protocol: in real mode, in protected mode, or in 64-bit mode.
#include "headers.inc"
#include "first.inc"

linux_header

.section .setup, "ax"
.code16
setup_entry:
    first

.text
.code32
    first
.org 0x200
.code64
    first
