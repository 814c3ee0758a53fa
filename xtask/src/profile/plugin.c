/* What a run of QEMU's emulation executes, counted: a plugin for its code generator (TCG).
 *
 * Each instruction of each translated block gets a counter that generated code adds one to, so that blocks left
 * half way (page faults, device accesses, exits) are counted right. Where the counters are read and cleared is told
 * by cuts: addresses at which a phase ends.
 *
 * Two worlds share the one processor, the lab ('l') and the guest that KVM runs in it ('g'), and their kernels may
 * well have the same addresses. VMRUN leads from one to the other, and #VMEXIT back, always to the instruction after
 * that VMRUN; QEMU never shares a translated block between the two (HF_GUEST_MASK is part of a block's key), so the
 * world in which a block is translated is the one in which it runs.
 *
 * One processor only: nothing here is locked. profile/plugin.rs describes what goes in and comes out.
 *
 * No header: Debian packages none for QEMU 7.2. What is used of its plugin API (version 1) is declared here.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_hwaddr;
typedef uint32_t qemu_plugin_meminfo_t;
enum { CB_NO_REGS = 0, INLINE_ADD_U64 = 0, MEM_R = 1, MEM_W = 2 };
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *,
                                      void (*)(unsigned, qemu_plugin_meminfo_t, uint64_t, void *), int, int, void *);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
void *qemu_plugin_insn_haddr(const struct qemu_plugin_insn *);
struct qemu_plugin_hwaddr *qemu_plugin_get_hwaddr(qemu_plugin_meminfo_t, uint64_t);
bool qemu_plugin_hwaddr_is_io(const struct qemu_plugin_hwaddr *);
#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 1;

#define HEAD 16 /* bytes of a block by which it is known whose code it is */

typedef struct {
    uint64_t count;
    uint16_t offset; /* from the block's first byte */
} Insn;

typedef struct {
    uint64_t vaddr;
    char world;
    uint8_t head[HEAD], head_len;
    uint16_t len;
    Insn insns[];
} Block;

/* Where something happens when an instruction is reached. */
typedef struct {
    enum { CUT, STEP, MARK, INSIDE, KIND } what;
    char world;
    unsigned index; /* among those of its kind */
    uint64_t from, to;
    uint8_t head[HEAD], head_len; /* must match, if any: user programs share addresses */
} Point;

/* Instructions that leave a guest, or would on KVM, and why else it is left; a name of plugin.rs for each. */
typedef struct Exit {
    struct Exit *next;
    const char *kind;
    const Block *block;
    uint64_t vaddr, count, kernel, user;
} Exit;

typedef struct {
    const char *kind;
    const Block *block;
    uint64_t vaddr;
} Special;

static FILE *out;
static Block **blocks;
static size_t n_blocks;
static Point points[65536];
static size_t n_points;
static bool io; /* whether device accesses are looked for: costs time */
static bool counting;
static uint64_t lab_kernel, lab_user, guest; /* instructions so far */
static Exit *exits[4096];

/* From #VMEXIT to VMRUN. */
static char world = 'l';
static uint64_t resume_vaddr;
static void *resume_haddr;
static const Special *special; /* the last one that the guest reached, and its count of instructions then */
static uint64_t special_guest;
static Block *last; /* the block that the guest was in */
static bool out_of_guest, noted;
static uint64_t exit_kernel, exit_user;
static const char *handled; /* what the lab's kernel was seen to do about it */
static unsigned handled_rank;
static char kinds[64][24];

static void add_exit(const char *kind, const Block *block, uint64_t vaddr, uint64_t count, uint64_t kernel,
                     uint64_t user)
{
    Exit **at = &exits[(vaddr ^ vaddr >> 12) % 4096];
    while (*at && ((*at)->vaddr != vaddr || (*at)->block != block || (*at)->kind != kind))
        at = &(*at)->next;
    if (!*at) {
        *at = calloc(1, sizeof **at);
        **at = (Exit){ .kind = kind, .block = block, .vaddr = vaddr };
    }
    (*at)->count += count;
    (*at)->kernel += kernel;
    (*at)->user += user;
}

static void print_block(const Block *b)
{
    fprintf(out, "%c %" PRIx64 " ", b->world, b->vaddr);
    for (unsigned i = 0; i < b->head_len; i++)
        fprintf(out, "%02x", b->head[i]);
}

/* Writes what was counted since the last time, unless nobody has asked for it yet, and begins anew. */
static void flush(bool keep)
{
    for (size_t i = 0; i < n_blocks; i++) {
        Block *b = blocks[i];
        bool any = false;
        for (unsigned k = 0; k < b->len; k++) {
            uint64_t count = b->insns[k].count;
            if (!count)
                continue;
            if (keep) {
                if (!any) {
                    fputs("b ", out);
                    print_block(b);
                }
                unsigned same = k;
                while (same < b->len && b->insns[same].count == count)
                    same++;
                fprintf(out, " %x:%u:%" PRIu64, b->insns[k].offset, same - k, count);
                for (unsigned j = k; j < same; j++)
                    b->insns[j].count = 0;
                any = true;
            }
            b->insns[k].count = 0;
        }
        if (any)
            fputc('\n', out);
    }
    for (size_t i = 0; i < 4096; i++)
        for (Exit *e = exits[i], *next; e; e = next) {
            next = e->next;
            if (keep) {
                fprintf(out, "x %s ", e->kind);
                print_block(e->block);
                fprintf(out, " %" PRIx64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", e->vaddr, e->count, e->kernel,
                        e->user);
            }
            free(e);
            exits[i] = next;
        }
}

/* Notes what the present exit has taken since it was last noted. */
static void note_exit(void)
{
    if (!out_of_guest || !last)
        return;
    /* A special instruction that was the guest's last is why it was left: none was counted after it. */
    bool by_special = special && guest <= special_guest + 1;
    const Block *block = by_special ? special->block : last;
    uint64_t vaddr = by_special ? special->vaddr : last->vaddr;
    const char *kind = by_special ? special->kind : handled ? handled : "interrupt";
    add_exit(kind, block, vaddr, !noted, lab_kernel - exit_kernel, lab_user - exit_user);
    exit_kernel = lab_kernel;
    exit_user = lab_user;
    noted = true;
}

static void event(char what, unsigned index)
{
    fprintf(out, "%c %u %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", what, index, lab_kernel, lab_user, guest);
}

static void reached(unsigned cpu, void *data)
{
    const Point *p = data;
    switch (p->what) {
    case STEP:
    case CUT:
        if (!noted) /* what comes after the cut is noted when the guest is entered again, if it is */
            note_exit();
        if (p->what == STEP) /* whatever guest there was is not entered again */
            out_of_guest = false;
        flush(counting);
        counting = true;
        event('c', p->index);
        break;
    case MARK:
        if (counting)
            event('m', p->index);
        break;
    case INSIDE:
        if (counting)
            event('i', p->index);
        break;
    case KIND:
        if (out_of_guest && (!handled || p->index > handled_rank)) {
            handled = kinds[p->index];
            handled_rank = p->index;
        }
        break;
    }
}

static void vmrun(unsigned cpu, void *data)
{
    if (world == 'g') /* a guest that tries: it is left */
        return;
    note_exit();
    out_of_guest = false;
    special = NULL;
    world = 'g';
}

static void vmexit(unsigned cpu, void *data)
{
    if (world != 'g')
        return;
    world = 'l';
    out_of_guest = true;
    noted = false;
    handled = NULL;
    exit_kernel = lab_kernel;
    exit_user = lab_user;
}

static void in_guest(unsigned cpu, void *data)
{
    last = data;
}

static void on_special(unsigned cpu, void *data)
{
    special = data;
    special_guest = guest;
}

static void count_special(unsigned cpu, void *data)
{
    const Special *s = data;
    if (counting)
        add_exit(s->kind, s->block, s->vaddr, 1, 0, 0);
}

static void on_memory(unsigned cpu, qemu_plugin_meminfo_t info, uint64_t vaddr, void *data)
{
    struct qemu_plugin_hwaddr *at = qemu_plugin_get_hwaddr(info, vaddr);
    if (at && qemu_plugin_hwaddr_is_io(at))
        count_special(cpu, data);
}

/* What an instruction is, of those that KVM intercepts. */
static const char *classify(const uint8_t *d, size_t n)
{
    size_t i = 0;
    while (i < n && (d[i] == 0x66 || d[i] == 0x67 || d[i] == 0xf2 || d[i] == 0xf3 || (d[i] & 0xe7) == 0x26 ||
                     d[i] == 0x64 || d[i] == 0x65))
        i++;
    if (i < n && (d[i] & 0xf0) == 0x40)
        i++;
    if (i >= n)
        return NULL;
    switch (d[i]) {
    case 0xe4: case 0xe5: case 0xec: case 0xed: case 0x6c: case 0x6d:
        return "in";
    case 0xe6: case 0xe7: case 0xee: case 0xef: case 0x6e: case 0x6f:
        return "out";
    case 0xf4:
        return "hlt";
    case 0x0f:
        break;
    default:
        return NULL;
    }
    uint8_t second = i + 1 < n ? d[i + 1] : 0, third = i + 2 < n ? d[i + 2] : 0;
    switch (second) {
    case 0x01:
        switch (third) {
        case 0xc1: case 0xd9: return "hypercall";
        case 0xd1: return "xsetbv";
        default: return NULL;
        }
    case 0x08: case 0x09: return "wbinvd";
    case 0x20: case 0x22: /* with nested paging, CR2 and CR3 are the guest's own */
        if ((third >> 3 & 7) == 2 || (third >> 3 & 7) == 3)
            return NULL;
        return second == 0x20 ? "mov-from-cr" : "mov-to-cr";
    case 0x21: return "mov-from-dr";
    case 0x23: return "mov-to-dr";
    case 0x30: return "wrmsr";
    case 0x32: return "rdmsr";
    case 0x33: return "rdpmc";
    case 0xa2: return "cpuid";
    default: return NULL;
    }
}

static Special *new_special(const char *kind, const Block *b, uint64_t vaddr)
{
    Special *s = malloc(sizeof *s);
    *s = (Special){ kind, b, vaddr };
    return s;
}

static bool matches(const Point *p, const Block *b, const uint8_t *code, size_t offset, size_t len)
{
    if (p->world != b->world)
        return false;
    size_t n = len - offset < p->head_len ? len - offset : p->head_len;
    return !memcmp(code + offset, p->head, n);
}

static int by_address(const void *a, const void *b)
{
    const Point *x = a, *y = b;
    return x->from < y->from ? -1 : x->from > y->from;
}

/* The first point at or after an address; points have no order within one. */
static size_t first_point(uint64_t vaddr)
{
    size_t low = 0, high = n_points;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (points[middle].from < vaddr)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static Point inside[64]; /* ranges */
static size_t n_inside;

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
    size_t n = qemu_plugin_tb_n_insns(tb);
    struct qemu_plugin_insn *first = qemu_plugin_tb_get_insn(tb, 0);
    uint64_t vaddr = qemu_plugin_tb_vaddr(tb);
    if (world == 'g' && vaddr == resume_vaddr && qemu_plugin_insn_haddr(first) == resume_haddr)
        vmexit(0, NULL);
    Block *b = calloc(1, sizeof *b + n * sizeof *b->insns);
    b->vaddr = vaddr;
    b->world = world;
    b->len = n;
    if (!(n_blocks & (n_blocks - 1)))
        blocks = realloc(blocks, (n_blocks ? n_blocks * 2 : 1) * sizeof *blocks);
    blocks[n_blocks++] = b;
    if (world == 'l' && vaddr == resume_vaddr && qemu_plugin_insn_haddr(first) == resume_haddr)
        qemu_plugin_register_vcpu_tb_exec_cb(tb, vmexit, CB_NO_REGS, NULL);
    if (world == 'g')
        qemu_plugin_register_vcpu_tb_exec_cb(tb, in_guest, CB_NO_REGS, b);

    uint8_t code[8192];
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        size_t size = qemu_plugin_insn_size(insn);
        b->insns[i].offset = len;
        if (len + size <= sizeof code) {
            memcpy(code + len, qemu_plugin_insn_data(insn), size);
            len += size;
        }
    }
    b->head_len = len < HEAD ? len : HEAD;
    memcpy(b->head, code, b->head_len);
    uint64_t *sum = world == 'g' ? &guest : vaddr >> 63 ? &lab_kernel : &lab_user;
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint64_t at = qemu_plugin_insn_vaddr(insn);
        const uint8_t *data = qemu_plugin_insn_data(insn);
        size_t size = qemu_plugin_insn_size(insn), offset = b->insns[i].offset;
        for (size_t p = first_point(at); p < n_points && points[p].from == at; p++)
            if (matches(&points[p], b, code, offset, len))
                qemu_plugin_register_vcpu_insn_exec_cb(insn, reached, CB_NO_REGS, &points[p]);
        qemu_plugin_register_vcpu_insn_exec_inline(insn, INLINE_ADD_U64, &b->insns[i].count, 1);
        qemu_plugin_register_vcpu_insn_exec_inline(insn, INLINE_ADD_U64, sum, 1);
        const char *kind = classify(data, size);
        if (kind)
            qemu_plugin_register_vcpu_insn_exec_cb(insn, world == 'g' ? on_special : count_special, CB_NO_REGS,
                                                   new_special(kind, b, at));
        if (io) {
            qemu_plugin_register_vcpu_mem_cb(insn, on_memory, CB_NO_REGS, MEM_R, new_special("mmio-read", b, at));
            qemu_plugin_register_vcpu_mem_cb(insn, on_memory, CB_NO_REGS, MEM_W, new_special("mmio-write", b, at));
        }
        if (size >= 3 && !memcmp(data, "\x0f\x01\xd8", 3)) {
            qemu_plugin_register_vcpu_insn_exec_cb(insn, vmrun, CB_NO_REGS, NULL);
            if (world == 'l') {
                resume_vaddr = at + 3;
                resume_haddr = (uint8_t *)qemu_plugin_insn_haddr(insn) + 3;
            }
        }
    }
    for (size_t p = 0; p < n_inside; p++)
        if (inside[p].world == world && vaddr >= inside[p].from && vaddr < inside[p].to)
            qemu_plugin_register_vcpu_tb_exec_cb(tb, reached, CB_NO_REGS, &inside[p]);
}

static void end(plugin_id id, void *data)
{
    if (counting)
        flush(true);
    fputs("end\n", out);
    fclose(out);
}

static bool read_points(const char *path)
{
    FILE *in = fopen(path, "r");
    char line[256], what[16], text[64];
    unsigned cuts = 0, marks = 0, ranges = 0, n_kinds = 0;
    while (in && fgets(line, sizeof line, in)) {
        Point p = { 0 };
        text[0] = 0;
        if (sscanf(line, "%15s %c %" SCNx64 " %63s", what, &p.world, &p.from, text) < 3)
            return false;
        if (!strcmp(what, "cut") || !strcmp(what, "step")) {
            p.what = *what == 'c' ? CUT : STEP;
            p.index = cuts++;
            for (unsigned byte; p.head_len < HEAD && sscanf(text + 2 * p.head_len, "%2x", &byte) == 1;)
                p.head[p.head_len++] = byte;
        } else if (!strcmp(what, "mark")) {
            p.what = MARK;
            p.index = marks++;
        } else if (!strcmp(what, "inside") && n_inside < sizeof inside / sizeof *inside) {
            p.what = INSIDE;
            p.index = ranges++;
            p.to = strtoull(text, NULL, 16);
            inside[n_inside++] = p;
            continue;
        } else if (!strcmp(what, "kind") && n_kinds < sizeof kinds / sizeof *kinds) {
            p.what = KIND;
            p.index = n_kinds;
            snprintf(kinds[n_kinds++], sizeof *kinds, "%.23s", text);
        } else {
            return false;
        }
        if (n_points == sizeof points / sizeof *points)
            return false;
        points[n_points++] = p;
    }
    if (!in)
        return false;
    fclose(in);
    qsort(points, n_points, sizeof *points, by_address);
    return true;
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    const char *points_path = "", *out_path = "";
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "points=", 7))
            points_path = argv[i] + 7;
        else if (!strncmp(argv[i], "out=", 4))
            out_path = argv[i] + 4;
        else if (!strcmp(argv[i], "io=on"))
            io = true;
    }
    out = fopen(out_path, "w");
    if (!out || !read_points(points_path)) {
        fprintf(stderr, "profile: cannot use %s and %s\n", points_path, out_path);
        return 1;
    }
    setvbuf(out, NULL, _IOFBF, 1 << 20);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, end, NULL);
    return 0;
}
