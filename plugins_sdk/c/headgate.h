/*
 * Everything a Headgate plugin in C needs, in one header and without a C library.
 *
 * Include it once, in the plugin's only source file. It brings the exports that every module of
 * ABI 1 must have (memory comes from the linker, headgate_abi_1 and input_buffer from here), views
 * on the JSON that hooks are given, an arena for what a call makes, and the answers.
 *
 * A call's input and everything from hg_alloc is gone at the next call: a hook starts with
 * hg_begin(). What plugin_init wants to keep, it copies into static storage.
 */
#ifndef HEADGATE_H
#define HEADGATE_H

typedef unsigned char hg_byte;
typedef unsigned int hg_size;
typedef unsigned long long hg_answer; /* (ptr << 32) | len, or an immediate verdict */

/* A view on bytes that somebody else owns. Not terminated. `at` is 0 where there is nothing. */
typedef struct {
  const char *at;
  hg_size size;
} hg_text;

#define HG_EXPORT(name) __attribute__((export_name(name)))
#define HG_IMPORT(name) __attribute__((import_module("headgate"), import_name(name)))
#define HG_UNUSED __attribute__((unused)) static
#define HG_LITERAL(string) ((hg_text){(string), sizeof(string) - 1})

/* Immediate verdicts: nothing is read back. */
#define HG_DEFAULT ((hg_answer)0) /* continue, default, defer, miss */
#define HG_BLOCK ((hg_answer)1)   /* block, for the generic reason */

/* A constant as an answer. */
#define HG_CONSTANT(string) hg_answer_of((string), sizeof(string) - 1)

/* --- what compilers call behind one's back --------------------------------------------------- */

__attribute__((no_builtin("memcpy"))) void *memcpy(void *to, const void *from, __SIZE_TYPE__ size) {
  char *target = to;
  const char *source = from;
  while (size--) *target++ = *source++;
  return to;
}

__attribute__((no_builtin("memmove"))) void *memmove(void *to, const void *from,
                                                     __SIZE_TYPE__ size) {
  char *target = to;
  const char *source = from;
  if (target < source) {
    while (size--) *target++ = *source++;
  } else {
    while (size--) target[size] = source[size];
  }
  return to;
}

__attribute__((no_builtin("memset"))) void *memset(void *to, int value, __SIZE_TYPE__ size) {
  char *target = to;
  while (size--) *target++ = (char)value;
  return to;
}

__attribute__((no_builtin("memcmp"))) int memcmp(const void *left, const void *right,
                                                 __SIZE_TYPE__ size) {
  const hg_byte *a = left, *b = right;
  for (; size--; a++, b++)
    if (*a != *b) return *a - *b;
  return 0;
}

/* --- memory ------------------------------------------------------------------------------------ */

extern char __heap_base; /* the linker's: everything above it is ours */

static char *hg_input;        /* the input buffer */
static char *hg_arena_start;  /* behind it: the arena */
static char *hg_arena_next;

/* Make memory up to `end` exist. Traps if the limit is reached: the failure rule then holds. */
HG_UNUSED void hg_reach(const char *end) {
  hg_size have = (hg_size)__builtin_wasm_memory_size(0) << 16;
  if ((hg_size)end <= have) return;
  hg_size pages = ((hg_size)end - have + 0xffff) >> 16;
  if (__builtin_wasm_memory_grow(0, pages) == (hg_size)-1) __builtin_trap();
}

HG_EXPORT("headgate_abi_1") void headgate_abi_1(void) {}

HG_EXPORT("input_buffer") char *input_buffer(hg_size capacity) {
  if (capacity > 64u << 20) return 0;
  hg_input = (char *)(((hg_size)&__heap_base + 15) & ~15u);
  char *end = hg_input + ((capacity + 15) & ~15u);
  hg_reach(end);
  if (end > hg_arena_start) hg_arena_start = end;
  hg_arena_next = hg_arena_start;
  return hg_input;
}

/* Start a call: what the one before it allocated is free again. */
HG_UNUSED void hg_begin(void) { hg_arena_next = hg_arena_start; }

HG_UNUSED char *hg_alloc(hg_size size) {
  char *found = hg_arena_next;
  if (size > 64u << 20) __builtin_trap();
  hg_arena_next = found + ((size + 7) & ~7u);
  hg_reach(hg_arena_next);
  return found;
}

/* --- texts ------------------------------------------------------------------------------------- */

HG_UNUSED int hg_same(hg_text a, hg_text b) {
  return a.size == b.size && memcmp(a.at, b.at, a.size) == 0;
}

HG_UNUSED char hg_lower(char c) { return c >= 'A' && c <= 'Z' ? c | 32 : c; }

/* Whether a text is this lower-case word, in any case of ASCII letters. */
HG_UNUSED int hg_is_word(hg_text text, const char *word) {
  for (hg_size i = 0; i < text.size; i++, word++)
    if (*word == 0 || hg_lower(text.at[i]) != *word) return 0;
  return *word == 0;
}

HG_UNUSED hg_text hg_copy(hg_text text) {
  char *to = hg_alloc(text.size);
  memcpy(to, text.at, text.size);
  return (hg_text){to, text.size};
}

/* --- reading JSON: the host's is well formed, and nothing here reads beyond its end -------------- */

HG_UNUSED const char *hg_skip_space(const char *p, const char *end) {
  while (p < end && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')) p++;
  return p;
}

/* Whether one of eight bytes is the byte that `all` repeats; may be wrong above the first that is. */
HG_UNUSED unsigned long long hg_has_byte(unsigned long long eight, unsigned long long all) {
  unsigned long long x = eight ^ all;
  return (x - 0x0101010101010101ull) & ~x & 0x8080808080808080ull;
}

/* From the opening quote to behind the closing one. Most of an envelope is strings: eight at once. */
HG_UNUSED const char *hg_skip_string(const char *p, const char *end) {
  for (p++; end - p >= 8; p += 8) {
    unsigned long long eight;
    __builtin_memcpy(&eight, p, 8);
    if (hg_has_byte(eight, 0x2222222222222222ull) || hg_has_byte(eight, 0x5c5c5c5c5c5c5c5cull)) break;
  }
  for (; p < end; p++) {
    if (*p == '\\')
      p++;
    else if (*p == '"')
      return p + 1;
  }
  return end;
}

HG_UNUSED const char *hg_skip_value(const char *p, const char *end) {
  int depth = 0;
  while (p < end) {
    char c = *p;
    if (c == '"') {
      p = hg_skip_string(p, end);
    } else if (c == '{' || c == '[') {
      depth++;
      p++;
      continue;
    } else if (c == '}' || c == ']') {
      if (depth == 0) return p;
      depth--;
      p++;
    } else if (c == ',' && depth == 0) {
      return p;
    } else {
      p++;
      continue;
    }
    if (depth == 0) return p;
  }
  return end;
}

/*
 * The value of a member of an object, as JSON. Members with escapes in their names are not found;
 * the host has none.
 */
HG_UNUSED hg_text hg_member(hg_text object, const char *name) {
  hg_size name_size = 0;
  while (name[name_size]) name_size++;
  const char *p = hg_skip_space(object.at, object.at + object.size);
  const char *end = object.at + object.size;
  if (p >= end || *p != '{') return (hg_text){0, 0};
  for (p++; p < end;) {
    p = hg_skip_space(p, end);
    if (p >= end || *p != '"') break;
    const char *key = p + 1;
    p = hg_skip_string(p, end);
    hg_text found = {key, (hg_size)(p - 1 - key)};
    p = hg_skip_space(p, end);
    if (p >= end || *p != ':') break;
    p = hg_skip_space(p + 1, end);
    const char *value = p;
    p = hg_skip_value(p, end);
    if (hg_same(found, (hg_text){name, name_size})) return (hg_text){value, (hg_size)(p - value)};
    p = hg_skip_space(p, end);
    if (p < end && *p == ',') p++;
  }
  return (hg_text){0, 0};
}

/* Step through an array: `at` is 0 at the start and is given again each time. */
HG_UNUSED int hg_next(hg_text array, const char **at, hg_text *element) {
  const char *end = array.at + array.size;
  const char *p = *at;
  if (p == 0) {
    p = array.at == 0 ? end : hg_skip_space(array.at, end);
    if (p >= end || *p != '[') return 0;
    p++;
  } else {
    p = hg_skip_space(p, end);
    if (p >= end || *p != ',') return 0;
    p++;
  }
  p = hg_skip_space(p, end);
  if (p >= end || *p == ']') return 0;
  element->at = p;
  p = hg_skip_value(p, end);
  element->size = (hg_size)(p - element->at);
  *at = p;
  return 1;
}

HG_UNUSED int hg_is_true(hg_text json) { return hg_same(json, HG_LITERAL("true")); }
HG_UNUSED int hg_is_string(hg_text json) { return json.size >= 2 && json.at[0] == '"'; }
HG_UNUSED int hg_is_array(hg_text json) { return json.size >= 2 && json.at[0] == '['; }

/* Whether a JSON value is the string that needs no escapes. */
HG_UNUSED int hg_says(hg_text json, hg_text string) {
  return hg_is_string(json) && hg_same((hg_text){json.at + 1, json.size - 2}, string);
}

HG_UNUSED int hg_hex(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = hg_lower(c);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A number of hexadecimal digits; -1 if they are not. */
HG_UNUSED int hg_hex_number(const char *p, const char *end, int digits) {
  int value = 0;
  if (end - p < digits) return -1;
  while (digits--) {
    int digit = hg_hex(*p++);
    if (digit < 0) return -1;
    value = value << 4 | digit;
  }
  return value;
}

HG_UNUSED char *hg_put_utf8(char *to, hg_size code) {
  if (code < 0x80) {
    *to++ = (char)code;
  } else if (code < 0x800) {
    *to++ = (char)(0xc0 | code >> 6);
    *to++ = (char)(0x80 | (code & 63));
  } else if (code < 0x10000) {
    *to++ = (char)(0xe0 | code >> 12);
    *to++ = (char)(0x80 | (code >> 6 & 63));
    *to++ = (char)(0x80 | (code & 63));
  } else {
    *to++ = (char)(0xf0 | code >> 18);
    *to++ = (char)(0x80 | (code >> 12 & 63));
    *to++ = (char)(0x80 | (code >> 6 & 63));
    *to++ = (char)(0x80 | (code & 63));
  }
  return to;
}

/*
 * The text of a JSON string: a view on the input where it has no escapes, else a copy. `at` is 0
 * for what is no string, null among it.
 */
HG_UNUSED hg_text hg_string(hg_text json) {
  if (!hg_is_string(json)) return (hg_text){0, 0};
  const char *p = json.at + 1, *end = json.at + json.size - 1;
  const char *escape = p;
  while (escape < end && *escape != '\\') escape++;
  if (escape == end) return (hg_text){p, (hg_size)(end - p)};
  char *start = hg_alloc((hg_size)(end - p)), *to = start;
  while (p < end) {
    if (*p != '\\' || p + 1 >= end) {
      *to++ = *p++;
      continue;
    }
    char c = p[1];
    p += 2;
    if (c == 'u') {
      int code = hg_hex_number(p, end, 4);
      if (code < 0) break;
      p += 4;
      if (code >= 0xd800 && code < 0xdc00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u') {
        int low = hg_hex_number(p + 2, end, 4);
        if (low >= 0xdc00 && low < 0xe000) {
          code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
          p += 6;
        }
      }
      to = hg_put_utf8(to, (hg_size)code);
    } else {
      *to++ = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c == 'b' ? '\b' : c == 'f' ? '\f' : c;
    }
  }
  return (hg_text){start, (hg_size)(to - start)};
}

/* Shorthands for the envelope of the statement hooks. */
HG_UNUSED hg_text hg_attribute(hg_text envelope, const char *name) {
  return hg_string(hg_member(hg_member(hg_member(envelope, "hook_context"), "attributes"), name));
}

/* --- writing ------------------------------------------------------------------------------------- */

/* A text that is being put together. It moves in the arena as it grows. */
typedef struct {
  char *start;
  hg_size size;
  hg_size room;
} hg_writer;

HG_UNUSED hg_writer hg_write(void) { return (hg_writer){0, 0, 0}; }

HG_UNUSED void hg_make_room(hg_writer *writer, hg_size more) {
  if (more <= writer->room - writer->size) return;
  hg_size room = (writer->size + more) * 2 + 64;
  char *start = hg_alloc(room);
  memcpy(start, writer->start, writer->size);
  writer->start = start;
  writer->room = room;
}

HG_UNUSED void hg_put_char(hg_writer *writer, char c) {
  hg_make_room(writer, 1);
  writer->start[writer->size++] = c;
}

HG_UNUSED void hg_put(hg_writer *writer, hg_text text) {
  hg_make_room(writer, text.size);
  memcpy(writer->start + writer->size, text.at, text.size);
  writer->size += text.size;
}

/* With its quotes, and everything escaped that JSON wants escaped. */
HG_UNUSED void hg_put_json_string(hg_writer *writer, hg_text text) {
  static const char digits[] = "0123456789abcdef";
  hg_put_char(writer, '"');
  for (hg_size i = 0; i < text.size; i++) {
    hg_byte c = (hg_byte)text.at[i];
    if (c == '"' || c == '\\') {
      hg_put_char(writer, '\\');
      hg_put_char(writer, (char)c);
    } else if (c < 0x20) {
      hg_put(writer, HG_LITERAL("\\u00"));
      hg_put_char(writer, digits[c >> 4]);
      hg_put_char(writer, digits[c & 15]);
    } else {
      hg_put_char(writer, (char)c);
    }
  }
  hg_put_char(writer, '"');
}

HG_UNUSED hg_text hg_written(const hg_writer *writer) {
  return (hg_text){writer->start, writer->size};
}

/* --- answers ------------------------------------------------------------------------------------- */

HG_UNUSED hg_answer hg_answer_of(const char *at, hg_size size) {
  return (hg_answer)(hg_size)at << 32 | size;
}

HG_UNUSED hg_answer hg_answer_with(const char *before, hg_text value) {
  hg_writer writer = hg_write();
  hg_size size = 0;
  while (before[size]) size++;
  hg_put(&writer, (hg_text){before, size});
  hg_put_json_string(&writer, value);
  hg_put_char(&writer, '}');
  hg_text answer = hg_written(&writer);
  return hg_answer_of(answer.at, answer.size);
}

HG_UNUSED hg_answer hg_block(hg_text reason) {
  return hg_answer_with("{\"action\":\"block\",\"value\":", reason);
}

HG_UNUSED hg_answer hg_rewrite(hg_text sql) {
  return hg_answer_with("{\"action\":\"rewrite\",\"value\":", sql);
}

HG_UNUSED hg_answer hg_route_to_node(hg_text node) {
  return hg_answer_with("{\"action\":\"node\",\"target\":", node);
}

HG_UNUSED hg_answer hg_route_to_branch(hg_text branch) {
  return hg_answer_with("{\"action\":\"branch\",\"target\":", branch);
}

/* --- the host ------------------------------------------------------------------------------------ */

#define HG_TRACE 0
#define HG_DEBUG 1
#define HG_INFO 2
#define HG_WARN 3
#define HG_ERROR 4

/*
 * Only what is called is imported, and each import asks for its permission in the manifest:
 * log, metrics, config, clock, kv.read, kv.write, crypto. Results below zero are error codes.
 */
HG_IMPORT("log") int headgate_log(int level, const char *at, hg_size size);
HG_IMPORT("metric_add") int headgate_metric_add(const char *name, hg_size size, double delta);
HG_IMPORT("metric_set") int headgate_metric_set(const char *name, hg_size size, double value);
HG_IMPORT("config_get") int headgate_config_get(const char *key, hg_size size, char *out, hg_size room);
HG_IMPORT("now_us") long long headgate_now_us(void);
HG_IMPORT("kv_get") int headgate_kv_get(const char *key, hg_size size, char *out, hg_size room);
HG_IMPORT("kv_set")
int headgate_kv_set(const char *key, hg_size size, const char *value, hg_size value_size, long long ttl_ms);
HG_IMPORT("kv_delete") int headgate_kv_delete(const char *key, hg_size size);
HG_IMPORT("kv_incr") long long headgate_kv_incr(const char *key, hg_size size, long long delta);
HG_IMPORT("sha256") int headgate_sha256(const char *at, hg_size size, char *out);

HG_UNUSED void hg_log(int level, hg_text line) { headgate_log(level, line.at, line.size); }

HG_UNUSED void hg_count(hg_text name, double delta) {
  headgate_metric_add(name.at, name.size, delta);
}

#endif
