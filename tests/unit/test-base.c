/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "base/list.h"
#include "base/reason.h"
#include "test.h"

TEST(checked_arithmetic_refuses_what_does_not_fit) {
        uint64_t r;

        assert_se(add_u64(UINT64_MAX - 1, 1, &r) && r == UINT64_MAX);
        assert_se(!add_u64(UINT64_MAX, 1, &r));
        assert_se(mul_u64(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &r));
        assert_se(!mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &r));
        assert_se(align_u64(UINT64_MAX - 31, 32, &r) && r == UINT64_MAX - 31);
        assert_se(!align_u64(UINT64_MAX - 30, 32, &r));
}

TEST(reason_is_cut_to_fit_and_holds_one_line) {
        struct reason reason = REASON_INIT;
        char longest[1000];

        reason_set(&reason, "name %s", "a\nb\x1b[2J");
        assert_se(strcmp(reason.text, "name a?b?[2J") == 0);
        memset(longest, 'x', sizeof(longest) - 1);
        longest[sizeof(longest) - 1] = '\0';
        reason_set(&reason, "%s", longest);
        assert_se(strlen(reason.text) == sizeof(reason.text) - 1);
        reason_set(NULL, "nobody listens");
}

TEST(list_keeps_order_and_survives_double_unlink) {
        struct item {
                int n;
                struct list link;
        } items[3] = { { .n = 0 }, { .n = 1 }, { .n = 2 } }, *pos, *tmp;
        struct list head = LIST_INIT(head);
        int seen = 0;

        for (int i = 0; i < 3; i++)
                list_append(&head, &items[i].link);
        list_unlink(&items[1].link);
        list_unlink(&items[1].link);
        list_for_each(pos, &head, link)
                seen = seen * 10 + pos->n + 1;
        assert_se(seen == 13);
        list_for_each_safe(pos, tmp, &head, link)
                list_unlink(&pos->link);
        assert_se(list_empty(&head));
}
