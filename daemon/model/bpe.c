/* SPDX-License-Identifier: MIT */
#include "bpe.h"

#include <errno.h>
#include <stdlib.h>

#include "base/util.h"

#define END UINT32_MAX

void bpe_deinit(struct bpe *b) {
        free(b->symbols);
        free(b->heap);
        *b = (struct bpe) BPE_NULL;
}

void bpe_begin(struct bpe *b) {
        b->n = 0;
        b->heap_n = 0;
}

int bpe_add(struct bpe *b, int32_t id, size_t size) {
        const struct bpe_symbol *last;

        if (b->n == b->capacity) {
                const size_t capacity = MAX(b->capacity * 2, (size_t) 64);
                struct bpe_symbol *grown = realloc(b->symbols, capacity * sizeof(*grown));

                if (!grown)
                        return -ENOMEM;
                b->symbols = grown;
                b->capacity = capacity;
        }
        last = b->n > 0 ? &b->symbols[b->n - 1] : NULL;
        b->symbols[b->n] = (struct bpe_symbol) {
                .id = id,
                .start = last ? last->start + last->size : 0,
                .size = (uint32_t) size,
                .next = END,
                .prev = last ? (uint32_t) b->n - 1 : END,
        };
        if (last)
                b->symbols[b->n - 1].next = (uint32_t) b->n;
        b->n++;
        return 0;
}

/* A candidate is its rank above its left symbol: smaller is earlier, ties go to the left. */
static int heap_push(struct bpe *b, uint32_t rank, uint32_t left) {
        const uint64_t key = (uint64_t) rank << 32 | left;
        size_t i;

        if (b->heap_n == b->heap_capacity) {
                const size_t capacity = MAX(b->heap_capacity * 2, (size_t) 64);
                uint64_t *grown = realloc(b->heap, capacity * sizeof(*grown));

                if (!grown)
                        return -ENOMEM;
                b->heap = grown;
                b->heap_capacity = capacity;
        }
        for (i = b->heap_n++; i > 0 && b->heap[(i - 1) / 2] > key; i = (i - 1) / 2)
                b->heap[i] = b->heap[(i - 1) / 2];
        b->heap[i] = key;
        return 0;
}

static uint64_t heap_pop(struct bpe *b) {
        const uint64_t top = b->heap[0], last = b->heap[--b->heap_n];
        size_t i = 0;

        for (size_t child; (child = 2 * i + 1) < b->heap_n; i = child) {
                if (child + 1 < b->heap_n && b->heap[child + 1] < b->heap[child])
                        child++;
                if (b->heap[child] >= last)
                        break;
                b->heap[i] = b->heap[child];
        }
        b->heap[i] = last;
        return top;
}

/* Makes the symbol `left` and its successor a candidate if they may join. */
static int offer(struct bpe *b, const char *word, const struct bpe_rules *rules, uint32_t left) {
        const struct bpe_symbol *l, *r;
        uint32_t rank;
        int32_t id;

        if (left == END || b->symbols[left].next == END)
                return 0;
        l = &b->symbols[left];
        r = &b->symbols[l->next];
        if (!rules->join(rules->userdata, word, l, r, &rank, &id))
                return 0;
        return heap_push(b, rank, left);
}

/* The candidate may be stale: either symbol has joined another since. Then the rank of those that stand there
 * now differs, or the same pair has formed anew and is as good. */
static bool candidate_holds(const struct bpe *b, const char *word, const struct bpe_rules *rules,
                            uint64_t key, int32_t *ret_id) {
        const struct bpe_symbol *l = &b->symbols[(uint32_t) key];
        uint32_t rank;

        return l->size > 0 && l->next != END &&
               rules->join(rules->userdata, word, l, &b->symbols[l->next], &rank, ret_id) &&
               rank == key >> 32;
}

int bpe_merge(struct bpe *b, const char *word, const struct bpe_rules *rules) {
        int r;

        for (uint32_t i = 0; i + 1 < b->n; i++) {
                r = offer(b, word, rules, i);
                if (r)
                        return r;
        }
        while (b->heap_n > 0) {
                const uint64_t key = heap_pop(b);
                const uint32_t left = (uint32_t) key;
                struct bpe_symbol *l = &b->symbols[left], *gone;
                int32_t id;

                if (!candidate_holds(b, word, rules, key, &id))
                        continue;
                gone = &b->symbols[l->next];
                l->id = id;
                l->size += gone->size;
                l->next = gone->next;
                gone->size = 0;
                if (l->next != END)
                        b->symbols[l->next].prev = left;
                r = offer(b, word, rules, left);
                if (r == 0)
                        r = offer(b, word, rules, l->prev);
                if (r)
                        return r;
        }
        return 0;
}
