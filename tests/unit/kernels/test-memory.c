/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "cpu.h"
#include "test.h"

/* Flags of the mapping that holds an address, as /proc/self/smaps tells them. */
static void mapping_flags(const void *address, char flags[static 256]) {
        FILE *f = fopen("/proc/self/smaps", "re");
        unsigned long begin, end;
        bool inside = false;
        char line[256];

        assert_se(f);
        flags[0] = '\0';
        while (fgets(line, sizeof(line), f)) {
                if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
                        inside = (uintptr_t) address >= begin && (uintptr_t) address < end;
                else if (inside && strncmp(line, "VmFlags:", 8) == 0)
                        memcpy(flags, line, sizeof(line));
        }
        fclose(f);
}

static bool prefers_huge(const void *address) {
        char flags[256];

        mapping_flags(address, flags);
        return strstr(flags, " hg");
}

static bool kernel_has_huge_pages(void) {
        void *data = mmap(NULL, 2 * HOST_HUGE_PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        bool has = data != MAP_FAILED && madvise(data, 2 * HOST_HUGE_PAGE, MADV_HUGEPAGE) == 0;

        munmap(data, 2 * HOST_HUGE_PAGE);
        return has;
}

TEST(dense_memory_and_large_arenas_lie_on_huge_pages) {
        static const struct {
                uint64_t size;
                bool dense, huge;
        } cases[] = {
                { 1, false, false },
                { 1, true, false },
                { 100 << 20, false, false },
                { (2 << 20) - 1, true, false },
                { (2 << 20) + 1, true, true },
                { UINT64_C(2) << 30, false, true },
                { (UINT64_C(2) << 30) + 100, false, true },
        };

        for (size_t i = 0; i < ELEMENTS(cases); i++) {
                struct buffer *buffer;
                uint8_t *data;

                if (host_buffer_new(NULL, cases[i].size, cases[i].dense, &buffer) != 0)
                        continue;
                data = host_address(host_buffer_address(buffer));
                assert_se((uintptr_t) data % (cases[i].huge ? (uint64_t) HOST_HUGE_PAGE : 64) == 0);
                assert_se(data[0] == 0 && data[cases[i].size - 1] == 0);
                if (kernel_has_huge_pages())
                        assert_se(prefers_huge(data) == cases[i].huge);
                host_buffer_free(buffer);
        }
        assert_se(host_buffer_new(NULL, UINT64_MAX, true, &(struct buffer *) { NULL }) == -ENOMEM);
        assert_se(host_buffer_new(NULL, PTRDIFF_MAX, false, &(struct buffer *) { NULL }) == -ENOMEM);
}

TEST(scratch_grows_and_stays) {
        struct scratch s = {};
        void *small = scratch_get(&s, 1000), *large;

        assert_se(small && (uintptr_t) small % 64 == 0 && scratch_get(&s, 10) == small);
        large = scratch_get(&s, 10 << 20);
        assert_se(large && (uintptr_t) large % HOST_HUGE_PAGE == 0 && s.size == 10 << 20);
        memset(large, 1, 10 << 20);
        if (kernel_has_huge_pages())
                assert_se(prefers_huge(large));
        assert_se(scratch_get(&s, 1000) == large && !scratch_get(&s, SIZE_MAX));
        free(s.data);
}
