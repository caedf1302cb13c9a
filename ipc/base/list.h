/* SPDX-License-Identifier: MIT */
#pragma once

/* Circular doubly linked list, embedded in its elements. An initialised node that is in no list points to
 * itself, so unlinking twice is harmless. Not thread-safe. */

#include <stdbool.h>

#include "base/util.h"

struct list {
        struct list *next, *prev;
};

#define LIST_INIT(node) { .next = &(node), .prev = &(node) }

static inline void list_init(struct list *node) {
        node->next = node->prev = node;
}

static inline bool list_empty(const struct list *head) {
        return head->next == head;
}

/* Links `node` at the tail of `head`. */
static inline void list_append(struct list *head, struct list *node) {
        node->prev = head->prev;
        node->next = head;
        head->prev->next = node;
        head->prev = node;
}

static inline void list_unlink(struct list *node) {
        node->prev->next = node->next;
        node->next->prev = node->prev;
        list_init(node);
}

#define list_entry(node, type, member) container_of(node, type, member)

#define list_for_each(pos, head, member)                                                                     \
        for (pos = list_entry((head)->next, __typeof__(*pos), member); &pos->member != (head);              \
             pos = list_entry(pos->member.next, __typeof__(*pos), member))

/* As list_for_each(), and the body may unlink or free `pos`. */
#define list_for_each_safe(pos, tmp, head, member)                                                           \
        for (pos = list_entry((head)->next, __typeof__(*pos), member),                                       \
            tmp = list_entry(pos->member.next, __typeof__(*pos), member);                                    \
             &pos->member != (head); pos = tmp, tmp = list_entry(tmp->member.next, __typeof__(*tmp), member))
