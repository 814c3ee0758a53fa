# Entered by PVH.
#include "headers.inc"
#include "first.inc"

pvh_note _start

.code32
.globl _start
_start:
    first
