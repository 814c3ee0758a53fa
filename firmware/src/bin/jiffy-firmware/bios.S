# BIOS services: from an INT in real mode to Rust and back; and into real mode for the first time.
#
# What holds when `bios_service` is called:
#  1. 64-bit mode as after entry.S, but with the tables at BIOS_TABLES, on the stack that ends at STATE.
#  2. RDI is the linear address of a `bios::Frame` on the caller's stack.
#  3. What the caller had in ESP, GDTR, FS, GS, CR3, CR4 and EFER is in STATE, and comes back.
#
# The 16-bit code runs in the F segment, the rest where the ROM ends at 4 GiB.

.set STATE_SEGMENT, {STATE} >> 4
.set STATE_ESP, 0
.set STATE_SS, 4
.set STATE_FS, 6
.set STATE_GS, 8
.set STATE_CR3, 12
.set STATE_CR4, 16
.set STATE_EFER, 20
.set STATE_GDTR, 24

.section .bios, "ax", @progbits
.code16
bios_start:
    iret
.balign 8
# One stub of eight bytes for each vector of `bios::VECTORS`, in this order.
.irp vector, 0x08, 0x10, 0x11, 0x12, 0x13, 0x15, 0x16, 0x1a
    pushw $\vector
    jmp service
.balign 8
.endr

service:
    cld
    pushal
    pushw %ds
    pushw %es
    movw $STATE_SEGMENT, %ax
    movw %ax, %ds
    movl %esp, STATE_ESP                # all of it: 16-bit code with flat segments uses the upper half too
    movw %ss, STATE_SS
    movw %fs, STATE_FS
    movw %gs, STATE_GS
    movl %cr3, %eax
    movl %eax, STATE_CR3
    movl %cr4, %eax
    movl %eax, STATE_CR4
    movl ${EFER}, %ecx
    rdmsr
    movl %eax, STATE_EFER
    sgdtl STATE_GDTR
    xorl %ebx, %ebx
    movw %ss, %bx
    shll $4, %ebx
    movzwl %sp, %eax
    addl %eax, %ebx
    lgdtl %cs:(service_gdt_pointer - {REAL_MODE_BASE})
    movl ${CR0_PROTECTED}, %eax
    movl %eax, %cr0
    ljmpl ${CODE32}, $service32

.code32
service32:
    movl ${DATA}, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl ${CR4_LONG}, %eax
    movl %eax, %cr4
    movl ${BIOS_TABLES}, %eax
    movl %eax, %cr3
    movl ${EFER_LONG}, %eax             # ECX has EFER still
    xorl %edx, %edx
    wrmsr
    movl ${CR0_LONG}, %eax
    movl %eax, %cr0
    ljmpl ${CODE64}, $service64

.code64
service64:
    movl ${STATE}, %esp
    movl %ebx, %edi
    movabsq $bios_service, %rax
    call *%rax

# extern "sysv64" fn() -> !: to the frame that STATE points to.
.globl enter_real
enter_real:
    lgdt service_gdt_pointer64(%rip)
    leaq 1f(%rip), %rax
    pushq ${CODE32}
    pushq %rax
    lretq
.code32
1:
    movl ${CR0_PROTECTED}, %eax         # without paging this is no long mode any more
    movl %eax, %cr0
    movl ${STATE}, %ebx
    movl STATE_EFER(%ebx), %eax
    movl ${EFER}, %ecx
    xorl %edx, %edx
    wrmsr
    movl STATE_CR4(%ebx), %eax
    movl %eax, %cr4
    movl STATE_CR3(%ebx), %eax
    movl %eax, %cr3
    movl ${DATA16}, %eax                # segments as real mode has them
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    ljmpl ${CODE16}, $(2f - {REAL_MODE_BASE})
.code16
2:
    movl ${CR0_REAL}, %eax
    movl %eax, %cr0
    ljmpw $0xf000, $(3f - {REAL_MODE_BASE})
3:
    movw $STATE_SEGMENT, %ax
    movw %ax, %ds
    lgdtl STATE_GDTR
    lidtl %cs:(real_idt - {REAL_MODE_BASE})
    movw STATE_SS, %ss
    movl STATE_ESP, %esp
    movw STATE_FS, %fs
    movw STATE_GS, %gs
    popw %es
    popw %ds
    popal
    addw $2, %sp
    iret

.balign 8
service_gdt:
    .quad 0
    .quad {GDT_CODE32}
    .quad {GDT_CODE64}
    .quad {GDT_DATA}
    .quad {GDT_CODE16}
    .quad {GDT_DATA16}
service_gdt_pointer:
    .word service_gdt_pointer - service_gdt - 1
    .long service_gdt
service_gdt_pointer64:
    .word service_gdt_pointer - service_gdt - 1
    .quad service_gdt
real_idt:
    .word 0x3ff
    .long 0
.code64
