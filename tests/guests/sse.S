# One SSE instruction: a processor executes it; a KVM that emulates each instruction gives up.
#include "guest.inc"

.set CR0_EM, 1 << 2
.set CR0_MP, 1 << 1
.set CR4_OSFXSR, 1 << 9
.set ONES, 0x3f800000           # 1.0, as a single

_start:
    movl $stack_top, %esp
    say "sse: now"
    movl %cr0, %eax
    andl $~CR0_EM, %eax
    orl $CR0_MP, %eax
    movl %eax, %cr0
    movl %cr4, %eax
    orl $CR4_OSFXSR, %eax
    movl %eax, %cr4
    movups numbers, %xmm0
    addps %xmm0, %xmm0
    movups %xmm0, numbers
    movl numbers + 12, %eax
    expect %eax, 0x40000000, "sse: one and one are not two"
    say "sse: executed"
    finish 0

.data
numbers:
    .long ONES, ONES, ONES, ONES
