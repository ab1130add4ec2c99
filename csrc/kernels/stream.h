/* stream: writing outputs that the cache will not hold, past the cache, in whole cache lines.
 *
 * A cache line is a vector of any instruction set. Half of a line that is streamed, beside numbers that are stored, takes
 * five times as long as the whole of it, and a line that is stored among streamed ones as long as eight. So the partial
 * cache line between two neighbouring rows is put together of the end of one and the begin of the other. */

enum { CACHE_LINE = 64 };
_Static_assert(sizeof(vec) == CACHE_LINE, "a vector is a cache line");

/* A vector in memory, loaded as a whole. */
static INLINE vec copied(const vec *from) { return v(load)(from); }

static INLINE void stream_line(char *to, const char *from) { v(stream)(to, v(load)(from)); }

/* Lines begin between numbers of so many bytes, not in one. */
static INLINE int meets_lines(const char *at, int64_t bytes) { return (uintptr_t)at % (uintptr_t)bytes == 0; }

/* Numbers until the next line begins; 0, too, if none begins there. */
static INLINE int64_t before_line(const char *at, int64_t bytes) {
    return meets_lines(at, bytes) ? (int64_t)(-(uintptr_t)at % CACHE_LINE) / bytes : 0;
}

typedef struct {
    int64_t begin, end;
} line_range;

/* Those of n numbers that fill lines, if they may be streamed; else 0..0. */
static INLINE line_range whole_lines(const char *at, int64_t n, int64_t bytes, int non_temporal) {
    const int64_t before = before_line(at, bytes), begin = before < n ? before : n;
    return non_temporal && meets_lines(at, bytes) ? (line_range){begin, begin + ((n - begin) & -(CACHE_LINE / bytes))}
                                                  : (line_range){0, 0};
}

/* Where what is streamed ends inside a line, and what comes next is not at hand, neither can stream it: it is asked for
 * before it is written, or the stores behind would wait for it (rows of 257 classes took a third longer). */
static INLINE void fetch_partial_line(const char *end) {
    if ((uintptr_t)end % CACHE_LINE != 0)
        xent_prefetch(end);
}

/* Whether neighbouring rows share partial lines; rows of two lines have a whole one, wherever they begin. */
static INLINE int rows_share_lines(const char *out, int64_t step, int64_t classes, int64_t bytes) {
    return out && step == classes * bytes && step >= 2 * CACHE_LINE && meets_lines(out, bytes);
}

/* An output of wide rows, one row after the other. */
typedef struct {
    char *at;         /* of the row at hand */
    int64_t step;     /* to the next row */
    int64_t bytes;    /* of a number */
    int streams;      /* whole lines are streamed */
    int shares;       /* and partial ones are put together with the next row's */
    line_range lines; /* of the row at hand */
    int64_t open;     /* bytes that the row before has left in its last, partial line */
    int turn;         /* the line before the row is partial[turn], that behind it the other */
    _Alignas(CACHE_LINE) char partial[2][CACHE_LINE];
} row_stream;

static INLINE void begin_rows(row_stream *s, char *first, int64_t step, int64_t classes, int64_t bytes, int non_temporal,
                              int several) {
    s->at = first;
    s->step = step;
    s->bytes = bytes;
    s->streams = non_temporal && meets_lines(first, bytes) && meets_lines((char *)step, bytes);
    s->shares = several && s->streams && rows_share_lines(first, step, classes, bytes);
    s->lines = whole_lines(first, classes, bytes, s->streams);
    s->open = s->turn = 0;
}

/* Where number k of the row at hand is written, unless it is streamed. */
static INLINE char *place_of(row_stream *s, int64_t k) {
    if (s->shares && k < s->lines.begin)
        return s->partial[s->turn] + (uintptr_t)s->at % CACHE_LINE + k * s->bytes;
    if (s->shares && k >= s->lines.end)
        return s->partial[!s->turn] + (k - s->lines.end) * s->bytes;
    return s->at + k * s->bytes;
}

/* The partial line that the row before has left goes where it belongs. */
static INLINE void flush_partial(row_stream *s) {
    if (s->open)
        memcpy(s->at - s->open, s->partial[s->turn], (size_t)s->open);
    s->open = 0;
}

/* On to the next row. A row that is `skipped` has been written by other means. */
static INLINE void next_row(row_stream *s, int64_t classes, int skipped) {
    if (skipped) {
        flush_partial(s);
    } else if (s->shares) {
        char *const line = s->partial[s->turn];
        const uintptr_t begun = (uintptr_t)s->at % CACHE_LINE;
        if (s->open)
            stream_line(s->at - begun, line);
        else
            memcpy(s->at, line + begun, (size_t)(s->lines.begin * s->bytes));
        s->open = (classes - s->lines.end) * s->bytes;
        s->turn = !s->turn;
    }
    s->at += s->step;
    s->lines = whole_lines(s->at, classes, s->bytes, s->streams);
}

/* A buffer of contiguous numbers on its way to memory: whole lines are streamed while the buffer is still being filled. A
 * burst of lines would wait for memory (gradient of binary cross-entropy with logits: 25 %). */
typedef struct {
    char *to;
    const char *from;
    int64_t first, next; /* bytes: where a line begins, and the next that has not left */
} stream_buffer;

static INLINE stream_buffer begin_stream(char *to, const char *from, int64_t bytes) {
    const int64_t before = (int64_t)(-(uintptr_t)to % CACHE_LINE), first = before < bytes ? before : bytes;
    fetch_partial_line(to + bytes);
    return (stream_buffer){to, from, first, first};
}

/* The lines that end before byte `end` of the buffer. */
static INLINE void stream_filled(stream_buffer *s, int64_t end) {
    for (; s->next + CACHE_LINE <= end; s->next += CACHE_LINE)
        stream_line(s->to + s->next, s->from + s->next);
}

static INLINE void finish_stream(stream_buffer *s, int64_t end) {
    stream_filled(s, end);
    memcpy(s->to, s->from, (size_t)s->first);
    memcpy(s->to + s->next, s->from + s->next, (size_t)(end - s->next));
}
