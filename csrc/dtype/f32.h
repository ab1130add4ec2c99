/* float32: stored and computed as it is. */
#define P f32
#define XENT_DTYPE_NAME f32
#define COMPUTED_AS_STORED 1
#define STORAGE_BYTES 4

static inline f32_vec stored(const void *p) { return f32_load(p); }
static inline f32_vec stored_first(const void *p, int n, f32_vec fill) { return f32_load_first(p, n, fill); }
static inline void store_stored(void *p, f32_vec a) { f32_store(p, a); }
static inline void store_stored_first(void *p, int n, f32_vec a) { f32_store_first(p, n, a); }
static inline void stream_stored(void *p, f32_vec a) { f32_stream(p, a); }
static inline f32_real stored_one(const void *p) {
    f32_real x;
    memcpy(&x, p, sizeof x);
    return x;
}
