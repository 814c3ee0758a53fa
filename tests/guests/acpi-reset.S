# Resets the machine by ACPI's reset register.
#include "guest.inc"

_start:
    movl $stack_top, %esp
    say "acpi-reset: by the reset register"
    out ACPI_RESET, ACPI_RESET_VALUE
    jmp halt
