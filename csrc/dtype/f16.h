/* float16: read as it is, computed in float32, written rounded once to nearest even. */
#define P f32
#define XENT_DTYPE_NAME f16
#define COMPUTED_AS_STORED 0
#define STORAGE_BYTES 2

static inline f32_vec stored(const void *p) { return f16_load(p); }
static inline f32_vec stored_first(const void *p, int n, f32_vec fill) { return f16_load_first(p, n, fill); }
static inline void store_stored(void *p, f32_vec a) { f16_store(p, a); }
static inline void store_stored_first(void *p, int n, f32_vec a) { f16_store_first(p, n, a); }
static inline void stream_stored(void *p, f32_vec a) { f16_stream(p, a); }
static inline f32_real stored_one(const void *p) { return f32_get(f16_load_first(p, 1, f32_set(0))); }
