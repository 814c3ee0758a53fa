# Linux's boot protocol (Documentation/arch/x86/boot.rst) at its three entries: real mode with the BIOS's services,
# 32 bits, 64 bits.
#include "headers.inc"
#include "check.inc"

linux_header

.set SETUP_CMD_LINE_PTR, 0x228
.set SETUP_RAMDISK_IMAGE, 0x218
.set SETUP_RAMDISK_SIZE, 0x21c
.set SETUP_TYPE_OF_LOADER, 0x210
.set SETUP_HEADER_MAGIC, 0x202
.set ZERO_PAGE_E820_ENTRIES, 0x1e8
.set ZERO_PAGE_E820_MAP, 0x2d0
.set ZERO_PAGE_RSDP, 0x70
.set BOOT_CS, 0x10
.set BOOT_DS, 0x18
.set SMAP, 0x534d4150

# ---- 32-bit entry, at the kernel's start: ESI at the zero page.
.section .head, "ax"
.code32
    jmp entry_32

# ---- 64-bit entry: RSI at the zero page, the first 4 GiB mapped to themselves as far as they are needed.
.org 0x200
.code64
    jmp entry_64
.text
entry_64:
    movl $stack_top, %esp
    pushfq
    popq %rax
    movl $bad_flags, %edi
    testl $0x200, %eax          # IF
    jnz complain_64
    movl $bad_selectors, %edi
    movw %cs, %ax
    cmpw $BOOT_CS, %ax
    jne complain_64
    .irp segment, ds, es, ss
    movw %\segment, %ax
    cmpw $BOOT_DS, %ax
    jne complain_64
    .endr
    movl $0, complaint
    jmp 1f
complain_64:
    movl %edi, complaint
1:  movl %esi, %esi             # the zero page is below 4 GiB
    # To 32-bit code, and out of long mode.
    lgdt gdt_pointer
    pushq $BOOT_CS
    pushq $leave_64
    lretq
.code32
leave_64:
    movl $BOOT_DS, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %cr0, %eax
    andl $0x7fffffff, %eax      # PG
    movl %eax, %cr0
    movl complaint, %edi
    testl %edi, %edi
    jz 1f
    movl %edi, %esi
    call print
    finish 1
1:  movl $by_64, passed
    jmp check_zero_page

entry_32:
    movl $stack_top, %esp
    movl %ebx, %eax
    orl %edi, %eax
    orl %ebp, %eax
    must z, "EBX, EBP and EDI are not 0"
    pushfl
    popl %eax
    testl $0x200, %eax          # IF
    must z, "EFLAGS has IF"
    movl %cr0, %eax
    andl $0x80000001, %eax      # PG, PE
    cmpl $1, %eax
    must e, "CR0 is not PE without PG"
    movw %cs, %ax
    cmpw $BOOT_CS, %ax
    must e, "CS is not __BOOT_CS"
    .irp segment, ds, es, ss
    movw %\segment, %ax
    cmpw $BOOT_DS, %ax
    must e, "\segment is not __BOOT_DS"
    .endr
    movl $by_32, passed

check_zero_page:
    cmpl $0x53726448, SETUP_HEADER_MAGIC(%esi)  # "HdrS"
    must e, "the zero page has no setup header"
    cmpb $0, SETUP_TYPE_OF_LOADER(%esi)
    must ne, "the loader has no type"
    movl SETUP_CMD_LINE_PTR(%esi), %eax
    movl %eax, cmdline
    movl SETUP_RAMDISK_IMAGE(%esi), %eax
    movl %eax, initrd
    addl SETUP_RAMDISK_SIZE(%esi), %eax
    movl %eax, initrd + 4
    movl ZERO_PAGE_RSDP(%esi), %eax
    movl %eax, rsdp
    movzbl ZERO_PAGE_E820_ENTRIES(%esi), %ecx
    addl $ZERO_PAGE_E820_MAP, %esi
    movl $20, %edx
    call take_map
pass:
    call check
    movl passed, %esi
    call print
    finish 0

# From real mode: EBX is the linear address of the setup's segment.
.code32
from_real_mode:
    movl $BOOT_DS, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $stack_top, %esp
    movl SETUP_CMD_LINE_PTR(%ebx), %eax
    movl %eax, cmdline
    movl SETUP_RAMDISK_IMAGE(%ebx), %eax
    movl %eax, initrd
    addl SETUP_RAMDISK_SIZE(%ebx), %eax
    movl %eax, initrd + 4
    movl $by_16, passed
    movzwl failed(%ebx), %esi
    testl %esi, %esi
    jz 1f
    addl %ebx, %esi
    call print
    finish 1
1:  movzwl e820_count(%ebx), %ecx
    leal e820(%ebx), %esi
    movl $20, %edx
    call take_map
    movzwl memory_kib(%ebx), %eax
    cmpw BDA_MEMORY, %ax
    must e, "INT 12h: not what the BIOS data area says"
    jmp pass

.section .rodata
by_16: .asciz "bzimage: pass, real mode\n"
by_32: .asciz "bzimage: pass, 32 bits\n"
by_64: .asciz "bzimage: pass, 64 bits\n"
bad_flags: .asciz "check: RFLAGS has IF\n"
bad_selectors: .asciz "check: a selector is not Linux's\n"
.balign 8
gdt:
    .quad 0, 0
    .quad 0x00cf9b000000ffff    # BOOT_CS, 32 bits
    .quad 0x00cf93000000ffff    # BOOT_DS
gdt_pointer:
    .word . - gdt - 1
    .long gdt, 0

.bss
.balign 4
passed: .skip 4
complaint: .skip 4

# ---- Real mode: CS is 0x20 above DS, which is the setup's segment, as are ES and SS.
.section .setup, "ax"
.code16
.macro real_must condition, complaint
    .pushsection .setup.text, "a"
.Ltext\@:
    .asciz "check: \complaint\n"
    .popsection
    movw $.Ltext\@, %di
    j\condition .Lgood\@
    jmp real_failed
.Lgood\@:
.endm
setup_entry:
    movw %cs, %ax
    movw %ds, %bx
    subw %bx, %ax
    cmpw $0x20, %ax
    real_must e, "CS is not 0x20 above DS"
    movw %es, %ax
    cmpw %bx, %ax
    real_must e, "ES is not DS"
    movw %ss, %ax
    cmpw %bx, %ax
    real_must e, "SS is not DS"
    cmpb $0, SETUP_TYPE_OF_LOADER
    real_must ne, "the loader has no type"

    # Teletype output, which a firmware without a screen sends to the serial port.
    movw $0x0e54, %ax           # 'T'
    movw $7, %bx
    int $0x10
    # Code with flat segments uses more of it than SP.
    movl %esp, %ecx
    orl $0x5aa50000, %ecx
    movl %ecx, %esp
    int $0x11                   # equipment
    cmpl %ecx, %esp
    real_must e, "INT 11h changes ESP"
    movzwl %sp, %esp
    int $0x12                   # memory below the EBDA, KiB
    movw %ax, memory_kib
    movw $0x0800, %ax           # drive parameters: there is no drive
    movw $0x80, %dx
    int $0x13
    real_must c, "INT 13h: there is a disk"
    movw $0x0100, %ax           # is there a key? There is none
    int $0x16
    real_must z, "INT 16h: there is a key"
    movw $0, %ax                # ticks
    int $0x1a
    movb $0x88, %ah             # KiB above 1 MiB, of at most 64 MiB
    int $0x15
    real_must nc, "INT 15h, 88h: refused"
    cmpw $15360, %ax
    real_must ae, "INT 15h, 88h: less than 15 MiB"
    movw $0xe801, %ax           # KiB from 1 to 16 MiB; 64 KiB above 16 MiB
    int $0x15
    real_must nc, "INT 15h, E801h: refused"
    cmpw $15360, %ax
    real_must e, "INT 15h, E801h: not 15 MiB below 16 MiB"
    cmpw $256, %bx
    real_must ae, "INT 15h, E801h: less than 16 MiB above 16 MiB"
    movb $0x77, %ah             # none of the BIOS's
    int $0x15
    real_must c, "INT 15h, 77h: not refused"

    xorl %ebx, %ebx
    movw $e820, %di
1:  pushw %di
    movl $0xe820, %eax
    movl $20, %ecx
    movl $SMAP, %edx
    int $0x15
    popw %di
    jc 2f
    cmpl $SMAP, %eax
    jne 2f
    addw $20, %di
    incw e820_count
    cmpw $40, e820_count
    jae 2f
    testl %ebx, %ebx
    jnz 1b
2:  cmpw $2, e820_count
    real_must ae, "INT 15h, E820h: no map"
    # Is there a timer? Its counter, latched: where there is none, all bits are ones.
    xorw %ax, %ax
    outb %al, $0x43
    inb $0x40, %al
    xchgb %al, %ah
    inb $0x40, %al
    incw %ax
    jz 3f
    sti
    hlt                         # without a tick, it stays here
    cli
    xorw %ax, %ax
    int $0x1a
    testw %dx, %dx
    real_must nz, "INT 1Ah: an interrupt, and no tick"
3:  xorw %di, %di
real_failed:
    movw %di, failed
    cli
    xorl %ebx, %ebx
    movw %ds, %bx
    shll $4, %ebx
    data32 lgdt real_gdt_pointer
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $BOOT_CS, $from_real_mode

real_gdt_pointer:
    .word 31
    .long gdt
memory_kib: .word 0
failed: .word 0
e820_count: .word 0
e820: .skip 40 * 20
