# The memory functions that compilers call, for programs without a C library (System V ABI, AMD64 supplement:
# rdi, rsi, rdx in, rax out, direction flag clear). Included in Intel syntax.
#
# Eight bytes a step: `rep movsb` is fast only where the processor has ERMS, and where instructions are counted
# (QEMU's icount) each repetition is one.

.pushsection .text.memory, "ax", @progbits

.globl memcpy
.type memcpy, @function
memcpy:
    mov rax, rdi
    mov rcx, rdx
    shr rcx, 3
    rep movsq
    mov ecx, edx
    and ecx, 7
    rep movsb
    ret
.size memcpy, . - memcpy

.globl memmove
.type memmove, @function
memmove:
    mov rax, rdi
    sub rax, rsi
    cmp rax, rdx            # unsigned: below only if the destination starts within the source
    jae memcpy
    mov rax, rdi
    lea rdi, [rdi + rdx - 1]
    lea rsi, [rsi + rdx - 1]
    std
    mov ecx, edx
    and ecx, 7
    rep movsb
    sub rdi, 7
    sub rsi, 7
    mov rcx, rdx
    shr rcx, 3
    rep movsq
    cld
    ret
.size memmove, . - memmove

.globl memset
.type memset, @function
memset:
    mov r8, rdi
    movzx eax, sil
    mov rcx, 0x0101010101010101
    imul rax, rcx
    mov rcx, rdx
    shr rcx, 3
    rep stosq
    mov ecx, edx
    and ecx, 7
    rep stosb
    mov rax, r8
    ret
.size memset, . - memset

.globl memcmp
.globl bcmp
.type memcmp, @function
.type bcmp, @function
memcmp:
bcmp:
    xor ecx, ecx
0:
    lea r8, [rcx + 8]
    cmp r8, rdx
    ja 1f
    mov r9, [rdi + rcx]
    cmp r9, [rsi + rcx]
    jne 1f                  # the bytes below find which
    mov rcx, r8
    jmp 0b
1:
    cmp rcx, rdx
    je 2f
    movzx eax, byte ptr [rdi + rcx]
    movzx r8d, byte ptr [rsi + rcx]
    inc rcx
    sub eax, r8d
    je 1b
    ret
2:
    xor eax, eax
    ret
.size memcmp, . - memcmp
.size bcmp, . - bcmp

.globl strlen
.type strlen, @function
strlen:
    mov rax, -1
0:
    inc rax
    cmp byte ptr [rdi + rax], 0
    jne 0b
    ret
.size strlen, . - strlen

.popsection
