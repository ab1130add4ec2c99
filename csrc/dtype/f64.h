/* float64: stored and computed as it is. */
#define P f64
#define XENT_DTYPE_NAME f64
#define COMPUTED_AS_STORED 1
#define STORAGE_BYTES 8

static inline f64_vec stored(const void *p) { return f64_load(p); }
static inline f64_vec stored_first(const void *p, int n, f64_vec fill) { return f64_load_first(p, n, fill); }
static inline void store_stored(void *p, f64_vec a) { f64_store(p, a); }
static inline void store_stored_first(void *p, int n, f64_vec a) { f64_store_first(p, n, a); }
static inline void stream_stored(void *p, f64_vec a) { f64_stream(p, a); }
static inline f64_real stored_one(const void *p) {
    f64_real x;
    memcpy(&x, p, sizeof x);
    return x;
}
