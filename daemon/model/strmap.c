/* SPDX-License-Identifier: MIT */
#include "strmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/util.h"

/* Odd constants from the fraction of pi, so that a zero word does not make a zero product. */
#define MIX_0 UINT64_C(0x243f6a8885a308d3)
#define MIX_1 UINT64_C(0x13198a2e03707345)

uint64_t strmap_seed(void) {
        uint64_t seed = 0;

        /* Without the generator (early boot) the clock must do. */
        if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != sizeof(seed))
                seed = now_nsec();
        return seed | 1;
}

static uint64_t strmap_hash(const struct strmap *m, const char *key, size_t size) {
        uint64_t h = m->seed[0] ^ size, word;

        for (; size >= sizeof(word); key += sizeof(word), size -= sizeof(word)) {
                memcpy(&word, key, sizeof(word));
                h = strmap_mix(h ^ word ^ MIX_0, m->seed[1]);
        }
        word = 0;
        memcpy(&word, key, size);
        h = strmap_mix(h ^ word ^ MIX_0, m->seed[1]);
        return strmap_mix(h ^ MIX_1, m->seed[0]);
}

int strmap_init(struct strmap *m, size_t n) {
        size_t slots = 8;

        while (slots < n + n / 2)
                slots *= 2;
        *m = (struct strmap) {
                .entries = calloc(slots, sizeof(*m->entries)),
                .mask = slots - 1,
                .seed = { strmap_seed(), strmap_seed() },
        };
        return m->entries ? 0 : -ENOMEM;
}

void strmap_deinit(struct strmap *m) {
        free(m->entries);
        *m = (struct strmap) STRMAP_NULL;
}

/* The string's entry, or the free one where it would go. */
static struct strmap_entry *strmap_find(const struct strmap *m, const char *key, size_t size) {
        uint64_t i = strmap_hash(m, key, size);

        for (;; i++) {
                struct strmap_entry *e = &m->entries[i & m->mask];

                if (!e->key || (e->size == size && memcmp(e->key, key, size) == 0))
                        return e;
        }
}

bool strmap_add(struct strmap *m, const char *key, uint32_t size, uint32_t value) {
        struct strmap_entry *e = strmap_find(m, key, size);

        if (e->key)
                return false;
        *e = (struct strmap_entry) { .key = key, .size = size, .value = value };
        return true;
}

bool strmap_get(const struct strmap *m, const char *key, size_t size, uint32_t *ret) {
        const struct strmap_entry *e;

        if (!m->entries)
                return false;
        e = strmap_find(m, key, size);
        if (!e->key)
                return false;
        *ret = e->value;
        return true;
}
