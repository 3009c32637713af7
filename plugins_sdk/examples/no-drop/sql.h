/*
 * SQL cut into tokens as PostgreSQL's scan.l does it: quotes of every kind, nested comments, and
 * what continues a literal on the next line. Says where tokens are, not what they mean.
 */
#ifndef SQL_H
#define SQL_H

#include "../../c/headgate.h"

enum token_kind { END, WORD, QUOTED, STRING, NUMBER, SYMBOL, UNREADABLE };

typedef struct {
  enum token_kind kind;
  hg_text text; /* the whole token, quotes and prefix included */
  char symbol;  /* of SYMBOL */
} token;

typedef struct {
  const char *at;
  const char *end;
} lexer;

static int is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

static int is_newline(char c) { return c == '\n' || c == '\r'; }
static int is_digit(char c) { return c >= '0' && c <= '9'; }

static int is_word_start(char c) {
  return (hg_lower(c) >= 'a' && hg_lower(c) <= 'z') || c == '_' || (hg_byte)c >= 0x80;
}

static int is_word_part(char c) { return is_word_start(c) || is_digit(c) || c == '$'; }

/* Behind white space and comments; 0 if a comment does not end. */
static const char *skip_blank(const char *p, const char *end) {
  while (p < end) {
    if (is_space(*p)) {
      p++;
    } else if (*p == '-' && p + 1 < end && p[1] == '-') {
      while (p < end && !is_newline(*p)) p++;
    } else if (*p == '/' && p + 1 < end && p[1] == '*') {
      int depth = 1;
      for (p += 2; depth > 0; p++) {
        if (p + 1 >= end) return 0;
        if (*p == '/' && p[1] == '*') {
          depth++, p++;
        } else if (*p == '*' && p[1] == '/') {
          depth--, p++;
        }
      }
    } else {
      break;
    }
  }
  return p;
}

/*
 * If a literal that ended before `p` goes on after a new line, behind the quote that opens it again;
 * else 0. Comments to the end of a line may stand between, others may not.
 */
static const char *continued(const char *p, const char *end) {
  int has_newline = 0;
  while (p < end) {
    if (is_space(*p)) {
      has_newline |= is_newline(*p);
      p++;
    } else if (*p == '-' && p + 1 < end && p[1] == '-') {
      while (p < end && !is_newline(*p)) p++;
    } else {
      break;
    }
  }
  return has_newline && p < end && *p == '\'' ? p + 1 : 0;
}

/* From behind an opening quote to behind the closing one; 0 if there is none. */
static const char *end_of_string(const char *p, const char *end, int has_escapes) {
  while (p < end) {
    if (*p == '\\' && has_escapes) {
      p += 2;
    } else if (*p++ == '\'') {
      if (p < end && *p == '\'') {
        p++;
        continue;
      }
      const char *more = continued(p, end);
      if (more == 0) return p;
      p = more;
    }
  }
  return 0;
}

static const char *end_of_quoted(const char *p, const char *end) {
  while (p < end)
    if (*p++ == '"') {
      if (p < end && *p == '"')
        p++;
      else
        return p;
    }
  return 0;
}

/* Length of a dollar quote's delimiter at p, both dollars included; 0 if there is none. */
static hg_size delimiter(const char *p, const char *end) {
  const char *start = p++;
  if (p < end && *p != '$' && !is_word_start(*p)) return 0;
  while (p < end && *p != '$' && is_word_part(*p)) p++;
  return p < end && *p == '$' ? (hg_size)(p + 1 - start) : 0;
}

static const char *end_of_dollars(const char *p, const char *end, hg_size size) {
  const char *mark = p;
  for (p += size; p + size <= end; p++)
    if (*p == '$' && memcmp(p, mark, size) == 0) return p + size;
  return 0;
}

static token next_token(lexer *from) {
  const char *end = from->end;
  const char *p = skip_blank(from->at, end);
  token found = {UNREADABLE, {p ? p : from->at, 0}, 0};
  if (p == 0) {
    from->at = end;
    return found;
  }
  if (p == end) {
    found.kind = END;
    from->at = end;
    return found;
  }
  const char *stop = p + 1;
  char c = *p, following = p + 1 < end ? p[1] : 0;
  if (c == '\'') {
    found.kind = STRING;
    stop = end_of_string(p + 1, end, 0);
  } else if (c == '"') {
    found.kind = QUOTED;
    stop = end_of_quoted(p + 1, end);
  } else if (c == '$' && delimiter(p, end)) {
    found.kind = STRING;
    stop = end_of_dollars(p, end, delimiter(p, end));
  } else if (hg_lower(c) == 'e' && following == '\'') {
    found.kind = STRING;
    stop = end_of_string(p + 2, end, 1);
  } else if (hg_lower(c) == 'u' && following == '&' && p + 2 < end && p[2] == '\'') {
    found.kind = STRING;
    stop = end_of_string(p + 3, end, 0);
  } else if (hg_lower(c) == 'u' && following == '&' && p + 2 < end && p[2] == '"') {
    found.kind = QUOTED;
    stop = end_of_quoted(p + 3, end);
  } else if (is_word_start(c)) {
    /* N'...', B'...' and X'...' are a word and a literal here: nothing depends on it. */
    found.kind = WORD;
    while (stop < end && is_word_part(*stop)) stop++;
  } else if (is_digit(c)) {
    /* Letters that follow at once begin a word, as they do for older servers. */
    found.kind = NUMBER;
    while (stop < end && is_digit(*stop)) stop++;
  } else {
    found.kind = SYMBOL;
    found.symbol = c;
  }
  if (stop == 0) {
    found.kind = UNREADABLE;
    stop = end;
  }
  found.text.size = (hg_size)(stop - p);
  from->at = stop;
  return found;
}

static int is_escape_string(hg_text literal) { return hg_lower(literal.at[0]) == 'e'; }
static int is_unicode_string(hg_text literal) { return hg_lower(literal.at[0]) == 'u'; }

/* One escape of an E'' literal, its backslash already read. */
static const char *unescape(const char *p, const char *end, char **to) {
  char c = *p++;
  if (c >= '0' && c <= '7') {
    int value = c - '0';
    for (int i = 0; i < 2 && p < end && *p >= '0' && *p <= '7'; i++) value = value * 8 + *p++ - '0';
    *(*to)++ = (char)value;
  } else if (c == 'x' && p < end && hg_hex(*p) >= 0) {
    int value = hg_hex(*p++);
    if (p < end && hg_hex(*p) >= 0) value = value * 16 + hg_hex(*p++);
    *(*to)++ = (char)value;
  } else if (c == 'u' || c == 'U') {
    int digits = c == 'u' ? 4 : 8, code = hg_hex_number(p, end, digits);
    if (code >= 0) {
      *to = hg_put_utf8(*to, (hg_size)code & 0x1fffff);
      p += digits;
    }
  } else {
    *(*to)++ = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c == 'b' ? '\b' : c == 'f' ? '\f' : c;
  }
  return p;
}

/* What a literal says; of U&'' its escapes are left as they are. */
static hg_text content_of(hg_text literal) {
  const char *p = literal.at, *end = literal.at + literal.size;
  if (*p == '$') {
    hg_size size = delimiter(p, end);
    return (hg_text){p + size, literal.size - 2 * size};
  }
  int has_escapes = is_escape_string(literal);
  while (*p != '\'') p++;
  char *start = hg_alloc(literal.size), *to = start;
  for (p++; p < end;) {
    if (*p == '\\' && has_escapes && p + 1 < end) {
      p = unescape(p + 1, end, &to);
    } else if (*p != '\'') {
      *to++ = *p++;
    } else if (p + 1 < end && p[1] == '\'') {
      *to++ = '\'';
      p += 2;
    } else {
      const char *more = continued(p + 1, end);
      if (more == 0) break;
      p = more;
    }
  }
  return (hg_text){start, (hg_size)(to - start)};
}

#endif
