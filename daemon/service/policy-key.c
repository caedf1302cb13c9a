/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

#include "base/util.h"
#include "config-value.h"
#include "policy-key.h"

enum value_type {
        VALUE_EXPERTS,
        VALUE_NUMBER,
        VALUE_SIZE,
        VALUE_SPAN,
        VALUE_WORD,
};

static const char *const classes[] = {
        [POLICY_CLASS_INTERACTIVE] = "interactive",
        [POLICY_CLASS_BATCH] = "batch",
        [POLICY_CLASS_IDLE] = "idle",
        NULL,
};

static const char *const on_empty[] = {
        [POLICY_ON_EMPTY_DEGRADE] = "degrade",
        [POLICY_ON_EMPTY_WAIT] = "wait",
        NULL,
};

static const char *const no_yes[] = { "no", "yes", NULL };

static const struct policy_key_info {
        const char *name, *field;
        size_t offset, size; /* of the member of struct policy */
        enum value_type type;
        uint64_t min, max;
        const char *zero;         /* a word for 0, beside the range */
        const char *const *words; /* VALUE_WORD: by value */
} infos[_POLICY_KEY_N] = {
#define KEY(_key, _name, _member, ...)                                                                               \
        [POLICY_KEY_##_key] = { _name, #_member, offsetof(struct policy, _member),                                   \
                                sizeof(((struct policy *) 0)->_member), __VA_ARGS__ }
        KEY(EXPERTS_MAX, "ExpertsMax", experts_max_milli, VALUE_EXPERTS, 1, POLICY_EXPERTS_MILLI_MAX, "infinity"),
        KEY(EXPERTS_MIN, "ExpertsMin", experts_min_milli, VALUE_EXPERTS, 1, POLICY_EXPERTS_MILLI_MAX),
        KEY(WEIGHT, "Weight", weight, VALUE_NUMBER, 1, POLICY_WEIGHT_MAX),
        KEY(CLASS, "Class", class, VALUE_WORD, .words = classes),
        KEY(LATENCY_TARGET, "LatencyTarget", latency_target_nsec, VALUE_SPAN, NSEC_PER_MSEC, 60 * NSEC_PER_SEC,
            "infinity"),
        KEY(ACTIVATION_RATE, "ActivationRate", activation_rate, VALUE_NUMBER, 1, UINT64_C(1000000000000), "infinity"),
        KEY(ACTIVATION_BURST, "ActivationBurst", activation_burst, VALUE_NUMBER, 1, UINT64_C(1000000000000000), "auto"),
        KEY(ON_EMPTY, "OnEmpty", on_empty, VALUE_WORD, .words = on_empty),
        KEY(ADAPTIVE, "Adaptive", adaptive, VALUE_WORD, .words = no_yes),
        KEY(KV_MAX, "KvMax", kv_max, VALUE_SIZE, UINT64_C(64) << 10, UINT64_C(1) << 44, "infinity"),
        KEY(QUEUE_MAX, "QueueMax", queue_max, VALUE_NUMBER, 1, 1 << 20, "infinity"),
        KEY(SESSION_MAX, "SessionMax", session_max, VALUE_SIZE, UINT64_C(64) << 10, UINT64_C(1) << 50, "infinity"),
#undef KEY
};

const char *policy_key_name(enum policy_key key) {
        return infos[key].name;
}

const char *policy_key_field(enum policy_key key) {
        return infos[key].field;
}

int policy_key_find(const char *name, enum policy_key *ret) {
        for (enum policy_key key = 0; key < _POLICY_KEY_N; key++)
                if (strcasecmp(infos[key].name, name) == 0) {
                        *ret = key;
                        return 0;
                }
        return POLICY_KEY_E_UNKNOWN;
}

void policy_key_list(char ret[static POLICY_LIST_MAX]) {
        size_t used = 0;

        for (enum policy_key key = 0; key < _POLICY_KEY_N && used < POLICY_LIST_MAX; key++)
                used += (size_t) snprintf(ret + used, POLICY_LIST_MAX - used, "%s%s", key ? ", " : "", infos[key].name);
}

static int parse_word(const struct policy_key_info *info, const char *text, uint64_t *ret, struct reason *reason) {
        char list[POLICY_VALUE_MAX] = "";
        size_t used = 0;
        bool yes;

        if (info->words == no_yes) {
                if (config_value_bool(text, &yes, reason))
                        return POLICY_KEY_E_VALUE;
                *ret = yes;
                return 0;
        }
        for (size_t i = 0; info->words[i]; i++) {
                if (strcmp(info->words[i], text) == 0) {
                        *ret = i;
                        return 0;
                }
                used += (size_t) snprintf(list + used, sizeof(list) - used, "%s%s",
                                          !i ? "" : info->words[i + 1] ? ", " : " or ", info->words[i]);
        }
        return reason_return(reason, POLICY_KEY_E_VALUE, "%s is allowed", list);
}

static int parse_range(const struct policy_key_info *info, const char *text, uint64_t *ret, struct reason *reason) {
        switch (info->type) {
        case VALUE_EXPERTS:
                return config_value_experts(text, info->max, ret, reason);
        case VALUE_NUMBER:
                return config_value_number(text, info->min, info->max, ret, reason);
        case VALUE_SIZE:
                return config_value_size(text, info->min, info->max, ret, reason);
        default:
                return config_value_span(text, NSEC_PER_MSEC, info->min, info->max, ret, reason);
        }
}

int policy_key_parse(enum policy_key key, const char *text, uint64_t *ret, struct reason *reason) {
        const struct policy_key_info *info = &infos[key];
        struct reason range;

        if (info->type == VALUE_WORD)
                return parse_word(info, text, ret, reason);
        if (info->zero && strcmp(info->zero, text) == 0) {
                *ret = 0;
                return 0;
        }
        if (parse_range(info, text, ret, &range) == 0)
                return 0;
        return reason_return(reason, POLICY_KEY_E_VALUE, "%s%s%s", range.text, info->zero ? ", or " : "",
                             info->zero ? info->zero : "");
}

void policy_key_format(enum policy_key key, uint64_t value, char ret[static POLICY_VALUE_MAX]) {
        const struct policy_key_info *info = &infos[key];

        if (info->zero && value == 0)
                snprintf(ret, POLICY_VALUE_MAX, "%s", info->zero);
        else if (info->type == VALUE_WORD)
                snprintf(ret, POLICY_VALUE_MAX, "%s", info->words[value]);
        else if (info->type == VALUE_EXPERTS)
                config_format_experts(value, ret, POLICY_VALUE_MAX);
        else if (info->type == VALUE_SIZE)
                config_format_size(value, ret, POLICY_VALUE_MAX);
        else if (info->type == VALUE_SPAN)
                config_format_span(value, ret, POLICY_VALUE_MAX);
        else
                snprintf(ret, POLICY_VALUE_MAX, "%" PRIu64, value);
}

const char *policy_key_no_effect(enum policy_key key, uint64_t value) {
        return key == POLICY_KEY_SESSION_MAX && value > 0 ? "without effect, this version keeps no sessions on disk"
                                                          : NULL;
}

bool policy_key_is_shared(enum policy_key key) {
        switch (key) {
        case POLICY_KEY_EXPERTS_MAX:
        case POLICY_KEY_EXPERTS_MIN:
        case POLICY_KEY_ADAPTIVE:
                return false;
        default:
                return true;
        }
}

/* Little-endian, as all that moed runs on: the low bytes of a uint64_t are those of a narrower member. */
uint64_t policy_key_get(const struct policy *policy, enum policy_key key) {
        uint64_t value = 0;

        memcpy(&value, (const char *) policy + infos[key].offset, infos[key].size);
        return value;
}

void policy_key_put(struct policy *policy, enum policy_key key, uint64_t value) {
        memcpy((char *) policy + infos[key].offset, &value, infos[key].size);
}
