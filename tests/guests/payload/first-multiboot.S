# Entered by Multiboot.
#include "headers.inc"
#include "first.inc"

multiboot_header MULTIBOOT_MEMORY_INFO

.code32
.globl _start
_start:
    first
