/* SPDX-License-Identifier: MIT */
#include "prefix.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "step.h"

/* prefix_row.how, and a budget's floor above. */
enum { PREFIX_PROMPT = 1, PREFIX_BUDGET = 2, PREFIX_FLOOR = 4 };

struct prefix_node {
        struct prefix_cache *cache;
        struct prefix_node *parent; /* NULL: the top of a space, which has no page */
        struct prefix_node **children; /* in the order of their keys */
        uint32_t n_children, n_slots;
        uint32_t uses; /* cursors here and below: if there are none, there are none below either */
        uint32_t page; /* a reference of it */
        struct prefix_owner *owner;
        struct list idle; /* in owner->oldest while unused */
        struct prefix_key key;
};

struct prefix_space {
        struct list link;
        uint64_t id;
        struct prefix_node top;
};

struct prefix_cache {
        struct model *model;
        struct list spaces;
        uint32_t pages, idle;
};

static struct prefix_row describe_row(const struct step_part *part, uint32_t i) {
        if (step_has_budget(part, i))
                return (struct prefix_row) { .experts = part->budgets[i].cap_milli,
                                             .how = PREFIX_BUDGET + part->budgets[i].min_milli / 1000 * PREFIX_FLOOR };
        return (struct prefix_row) { .experts = part->allowances ? part->allowances[i] : 0 };
}

void prefix_key_init(struct prefix_key *key, const struct prefix_cache *cache, const struct step_part *part) {
        uint32_t n_prompt = cache->model->backend->flags & BACKEND_PROMPTS ? part->prompt : 0;

        for (uint32_t i = 0; i < KV_PAGE_TOKENS; i++) {
                key->rows[i] = describe_row(part, i);
                key->rows[i].token = part->tokens[i];
                key->rows[i].how += i < n_prompt ? PREFIX_PROMPT : 0;
        }
}

int prefix_cache_new(struct prefix_cache **ret, struct model *model) {
        struct prefix_cache *cache = malloc(sizeof(*cache));

        if (!cache)
                return -ENOMEM;
        *cache = (struct prefix_cache) { .model = model };
        list_init(&cache->spaces);
        *ret = cache;
        return 0;
}

void prefix_cache_free(struct prefix_cache *cache) {
        if (!cache)
                return;
        prefix_cache_clear(cache);
        free(cache);
}

uint32_t prefix_cache_pages(const struct prefix_cache *cache) {
        return cache->pages;
}

uint32_t prefix_cache_idle(const struct prefix_cache *cache) {
        return cache->idle;
}

void prefix_owner_init(struct prefix_owner *owner) {
        *owner = (struct prefix_owner) { .pages = 0 };
        list_init(&owner->oldest);
}

/* Where a child with this key is, or belongs. */
static uint32_t child_place(const struct prefix_node *node, const struct prefix_key *key, bool *ret_there) {
        uint32_t low = 0, high = node->n_children;

        *ret_there = false;
        while (low < high && !*ret_there) {
                uint32_t middle = low + (high - low) / 2;
                int order = memcmp(&node->children[middle]->key, key, sizeof(*key));

                *ret_there = order == 0;
                if (order < 0)
                        low = middle + 1;
                else
                        high = middle;
        }
        return *ret_there ? high : low;
}

static struct prefix_node *find_child(const struct prefix_node *node, const struct prefix_key *key) {
        bool there;
        uint32_t place = child_place(node, key, &there);

        return there ? node->children[place] : NULL;
}

static int make_slot(struct prefix_node *node) {
        uint32_t n = node->n_slots ? 2 * node->n_slots : 1;
        struct prefix_node **children;

        if (node->n_children < node->n_slots)
                return 0;
        children = reallocarray(node->children, n, sizeof(struct prefix_node *));
        if (!children)
                return -ENOMEM;
        node->children = children;
        node->n_slots = n;
        return 0;
}

static void insert_child(struct prefix_node *node, struct prefix_node *child) {
        bool there;
        uint32_t place = child_place(node, &child->key, &there);

        memmove(node->children + place + 1, node->children + place,
                (node->n_children - place) * sizeof(struct prefix_node *));
        node->children[place] = child;
        node->n_children++;
}

static void remove_child(struct prefix_node *node, struct prefix_node *child) {
        bool there;
        uint32_t place = child_place(node, &child->key, &there);

        node->n_children--;
        memmove(node->children + place, node->children + place + 1,
                (node->n_children - place) * sizeof(struct prefix_node *));
}

/* A space is there as long as anything is in it. */
static void release_space(struct prefix_node *top) {
        struct prefix_space *space = container_of(top, struct prefix_space, top);

        if (top->uses > 0 || top->n_children > 0)
                return;
        list_unlink(&space->link);
        free(top->children);
        free(space);
}

static int get_space(struct prefix_cache *cache, uint64_t id, struct prefix_space **ret) {
        struct prefix_space *space;

        list_for_each(space, &cache->spaces, link)
                if (space->id == id) {
                        *ret = space;
                        return 0;
                }
        space = calloc(1, sizeof(*space));
        if (!space)
                return -ENOMEM;
        space->id = id;
        space->top.cache = cache;
        list_append(&cache->spaces, &space->link);
        *ret = space;
        return 0;
}

static void charge(struct prefix_node *node, struct prefix_owner *owner) {
        node->owner->pages--;
        node->owner = owner;
        owner->pages++;
}

static void begin_use(struct prefix_node *node) {
        if (node->uses++ > 0 || !node->parent)
                return;
        list_unlink(&node->idle);
        node->owner->idle--;
        node->cache->idle--;
}

static void end_use(struct prefix_node *node) {
        if (--node->uses > 0 || !node->parent)
                return;
        list_append(&node->owner->oldest, &node->idle);
        node->owner->idle++;
        node->cache->idle++;
}

int prefix_enter(struct prefix_cursor *cursor, struct prefix_cache *cache, uint64_t space) {
        struct prefix_space *found;
        int r;

        r = get_space(cache, space, &found);
        if (r < 0)
                return r;
        *cursor = (struct prefix_cursor) { .at = &found->top };
        begin_use(cursor->at);
        return 0;
}

/* From the last page up: what comes later in a text is evicted first. */
void prefix_leave(struct prefix_cursor *cursor) {
        struct prefix_node *node = cursor->at, *parent;

        for (; node; node = parent) {
                parent = node->parent;
                end_use(node);
                if (!parent)
                        release_space(node);
        }
        *cursor = (struct prefix_cursor) PREFIX_CURSOR_NULL;
}

/* The sequence has its page; who takes it out of idleness pays for it. */
static void go_on(struct prefix_cursor *cursor, struct prefix_node *child, struct prefix_owner *owner) {
        begin_use(child);
        if (child->uses == 1)
                charge(child, owner);
        cursor->at = child;
        cursor->pages++;
}

int prefix_follow(struct prefix_cursor *cursor, const struct prefix_key *key, struct sequence *sequence,
                  struct prefix_owner *owner) {
        struct prefix_node *child = find_child(cursor->at, key);
        int r;

        if (!child)
                return PREFIX_E_ABSENT;
        r = sequence_follow(sequence, child->page);
        if (r < 0)
                return r;
        go_on(cursor, child, owner);
        return 0;
}

static struct prefix_node *node_new(struct prefix_node *parent, const struct prefix_key *key, uint32_t page,
                                    struct prefix_owner *owner) {
        struct prefix_node *node = calloc(1, sizeof(*node));

        if (!node)
                return NULL;
        *node = (struct prefix_node) {
                .cache = parent->cache, .parent = parent, .page = page, .owner = owner, .uses = 1, .key = *key,
        };
        list_init(&node->idle);
        kv_pages_share(&node->cache->model->pages, page);
        node->cache->pages++;
        owner->pages++;
        insert_child(parent, node);
        return node;
}

int prefix_store(struct prefix_cursor *cursor, const struct prefix_key *key, struct sequence *sequence,
                 struct prefix_owner *owner) {
        struct prefix_node *child = find_child(cursor->at, key);
        int r;

        if (child) {
                sequence_replace(sequence, cursor->pages, child->page);
                go_on(cursor, child, owner);
                return 0;
        }
        r = make_slot(cursor->at);
        if (r < 0)
                return r;
        child = node_new(cursor->at, key, sequence->pages[cursor->pages], owner);
        if (!child)
                return -ENOMEM;
        cursor->at = child;
        cursor->pages++;
        return 0;
}

/* An idle one without children. */
static void node_free(struct prefix_node *node) {
        struct prefix_node *parent = node->parent;
        struct prefix_cache *cache = node->cache;

        list_unlink(&node->idle);
        node->owner->idle--;
        node->owner->pages--;
        cache->idle--;
        cache->pages--;
        kv_pages_release(&cache->model->pages, 1, &node->page);
        remove_child(parent, node);
        free(node->children);
        free(node);
        if (!parent->parent)
                release_space(parent);
}

static struct prefix_node *last_below(struct prefix_node *node) {
        while (node->n_children > 0)
                node = node->children[node->n_children - 1];
        return node;
}

uint32_t prefix_evict(struct prefix_owner *owner, uint32_t pages) {
        uint32_t n;

        for (n = 0; n < pages && owner->idle > 0; n++)
                node_free(last_below(list_entry(owner->oldest.next, struct prefix_node, idle)));
        return n;
}

void prefix_cache_clear(struct prefix_cache *cache) {
        while (!list_empty(&cache->spaces))
                node_free(last_below(&list_entry(cache->spaces.next, struct prefix_space, link)->top));
}
