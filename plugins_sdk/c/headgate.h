/*
 * Headgate plugin SDK for C: one header, no C library.
 *
 * A plugin is a freestanding WebAssembly module (clang --target=wasm32 -nostdlib). This header has the
 * input buffer that the proxy writes envelopes to, just enough JSON to read fields of an envelope
 * and to write an answer, and the imports. See docs/plugins.md for the envelopes.
 *
 * Nothing is allocated: one envelope at a time, in static buffers, as the proxy calls an
 * instance for one statement at a time.
 */
#ifndef HEADGATE_H
#define HEADGATE_H

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define HG_EXPORT(name) __attribute__((export_name(#name), used))
#define HG_IMPORT(name) __attribute__((import_module("headgate"), import_name(#name)))

#define HG_INPUT_MAX (1u << 20)
#define HG_OUTPUT_MAX (1u << 17)

/* What a hook returns: 0 lets the statement pass, 1 blocks it with the generic reason. */
#define HG_PASS 0ull
#define HG_BLOCK 1ull

HG_IMPORT(log) int hg_import_log(u32 level, const char *text, u32 length);
HG_IMPORT(metric_add) int hg_import_metric_add(const char *name, u32 length, double delta);

static char hg_input[HG_INPUT_MAX];
static char hg_output[HG_OUTPUT_MAX];
static u32 hg_output_length;

HG_EXPORT(headgate_abi_1) void hg_abi(void) {}

HG_EXPORT(input_buffer) char *hg_input_buffer(u32 capacity) {
  return capacity <= HG_INPUT_MAX ? hg_input : 0;
}

/* -- text: a pointer and a length; never ends in NUL ------------------------------------------- */

typedef struct {
  const char *data;
  u32 length;
} hg_text;

#define HG_TEXT(literal) ((hg_text){literal, sizeof(literal) - 1})

static inline int hg_is(hg_text text, const char *word) {
  u32 i = 0;
  for (; i < text.length; i++)
    if (word[i] == 0 || text.data[i] != word[i]) return 0;
  return word[i] == 0;
}

static inline int hg_same(hg_text a, hg_text b) {
  if (a.length != b.length) return 0;
  for (u32 i = 0; i < a.length; i++)
    if (a.data[i] != b.data[i]) return 0;
  return 1;
}

static inline u32 hg_length(const char *word) {
  u32 n = 0;
  while (word[n]) n++;
  return n;
}

static inline void hg_log(u32 level, hg_text text) { hg_import_log(level, text.data, text.length); }

static inline void hg_count(const char *name, double delta) {
  hg_import_metric_add(name, hg_length(name), delta);
}

/* -- reading JSON --------------------------------------------------------------------------------
 * Values are found by walking, not by searching: a key inside a string is never taken for one. */

static u32 hg_skip_string(const char *s, u32 n, u32 i) { /* s[i] == '"'; index behind its end */
  for (i++; i < n; i++) {
    if (s[i] == '\\') i++;
    else if (s[i] == '"') return i + 1;
  }
  return n;
}

static u32 hg_skip_value(const char *s, u32 n, u32 i) { /* index behind the value at i */
  u32 depth = 0;
  while (i < n) {
    char c = s[i];
    if (c == '"') {
      i = hg_skip_string(s, n, i);
    } else {
      if (c == '{' || c == '[') depth++;
      else if (c == '}' || c == ']') {
        if (depth == 0) return i;
        depth--;
      } else if (depth == 0 && c == ',') return i;
      i++;
      continue;
    }
    if (depth == 0) return i;
  }
  return n;
}

/* The raw JSON of a key's value in the object `object`, length 0 where it is missing. */
static hg_text hg_get(hg_text object, const char *key) {
  const char *s = object.data;
  u32 n = object.length, i = 0, want = hg_length(key);
  while (i < n && s[i] != '{') i++;
  i++;
  while (i < n) {
    while (i < n && (s[i] == ' ' || s[i] == ',' || s[i] == '\n' || s[i] == '\t')) i++;
    if (i >= n || s[i] != '"') break;
    u32 start = i + 1;
    i = hg_skip_string(s, n, i);
    hg_text name = {s + start, i - 1 - start};
    while (i < n && (s[i] == ':' || s[i] == ' ')) i++;
    u32 value = i;
    i = hg_skip_value(s, n, i);
    if (name.length == want && hg_is(name, key)) return (hg_text){s + value, i - value};
  }
  return (hg_text){s, 0};
}

static u32 hg_hex(const char *s) {
  u32 value = 0;
  for (int i = 0; i < 4; i++) {
    char c = s[i];
    value = value * 16 + (c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
  }
  return value;
}

static u32 hg_utf8(u32 c, char *out) {
  if (c < 0x80) { out[0] = c; return 1; }
  if (c < 0x800) { out[0] = 0xC0 | c >> 6; out[1] = 0x80 | (c & 63); return 2; }
  if (c < 0x10000) {
    out[0] = 0xE0 | c >> 12; out[1] = 0x80 | (c >> 6 & 63); out[2] = 0x80 | (c & 63);
    return 3;
  }
  out[0] = 0xF0 | c >> 18; out[1] = 0x80 | (c >> 12 & 63);
  out[2] = 0x80 | (c >> 6 & 63); out[3] = 0x80 | (c & 63);
  return 4;
}

/* A JSON string's text. Decoded in place (it never grows), so decode each string once. */
static hg_text hg_string(hg_text json) {
  if (json.length < 2 || json.data[0] != '"') return (hg_text){json.data, 0};
  char *s = (char *)json.data + 1;
  u32 end = json.length - 2, out = 0, i = 0;
  while (i < end && s[i] != '\\') i++;
  for (out = i; i < end; i++) {
    if (s[i] != '\\') { s[out++] = s[i]; continue; }
    char c = s[++i];
    if (c == 'n') s[out++] = '\n';
    else if (c == 't') s[out++] = '\t';
    else if (c == 'r') s[out++] = '\r';
    else if (c == 'b') s[out++] = '\b';
    else if (c == 'f') s[out++] = '\f';
    else if (c == 'u' && i + 4 < end + 1) {
      u32 code = hg_hex(s + i + 1);
      i += 4;
      if (code >= 0xD800 && code < 0xDC00 && i + 6 <= end && s[i + 1] == '\\' && s[i + 2] == 'u') {
        code = 0x10000 + ((code - 0xD800) << 10) + (hg_hex(s + i + 3) - 0xDC00);
        i += 6;
      }
      out += hg_utf8(code, s + out);
    } else s[out++] = c;
  }
  return (hg_text){s, out};
}

/* The next element of a JSON array; `*at` begins as 0. Length 0 at the end. */
static hg_text hg_next(hg_text array, u32 *at) {
  const char *s = array.data;
  u32 n = array.length, i = *at;
  if (i == 0) i = 1;
  while (i < n && (s[i] == ' ' || s[i] == ',' || s[i] == '\n')) i++;
  if (i >= n || s[i] == ']') return (hg_text){s, 0};
  u32 start = i;
  i = hg_skip_value(s, n, i);
  *at = i;
  return (hg_text){s + start, i - start};
}

/* -- writing an answer ------------------------------------------------------------------------- */

static void hg_begin(void) { hg_output_length = 0; }

static void hg_raw(hg_text text) {
  for (u32 i = 0; i < text.length && hg_output_length < HG_OUTPUT_MAX; i++)
    hg_output[hg_output_length++] = text.data[i];
}

static void hg_put(const char *text) { hg_raw((hg_text){text, hg_length(text)}); }

/* Text inside a JSON string. */
static void hg_escaped(hg_text text) {
  static const char digits[] = "0123456789abcdef";
  for (u32 i = 0; i < text.length && hg_output_length + 6 < HG_OUTPUT_MAX; i++) {
    u8 c = text.data[i];
    if (c == '"' || c == '\\') {
      hg_output[hg_output_length++] = '\\';
      hg_output[hg_output_length++] = c;
    } else if (c < 32) {
      hg_put("\\u00");
      hg_output[hg_output_length++] = digits[c >> 4];
      hg_output[hg_output_length++] = digits[c & 15];
    } else hg_output[hg_output_length++] = c;
  }
}

static u64 hg_answer(void) { return ((u64)(u32)hg_output << 32) | hg_output_length; }

static u64 hg_block(const char *reason) {
  hg_begin();
  hg_put("{\"action\":\"block\",\"value\":\"");
  hg_escaped((hg_text){reason, hg_length(reason)});
  hg_put("\"}");
  return hg_answer();
}

#endif
