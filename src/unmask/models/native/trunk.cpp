// A small dense network's forward pass on a processor, from tokens to normed hidden states, in float32.
//
// Positions lie side by side, one in each lane: a panel holds LANES of them, feature after feature. A product reads a
// weight once and uses it for all lanes; norms, rotations and the softmax of a query need nothing of another lane; what
// is between two products stays in the nearest cache. Rows of a batch know nothing of each other, and each number is
// summed in the same order whatever stands beside it, so that a row does not depend on its batch.
//
// `library.py` compiles this file and describes the same structures.

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif

namespace {

constexpr int VECTORS = 2, LANES = VECTORS * WIDTH, TILE = 8, HALF = TILE / 2;

typedef float Vec __attribute__((vector_size(WIDTH * 4)));
typedef int32_t Int __attribute__((vector_size(WIDTH * 4)));
typedef float Loose __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

struct Pair {
    Vec of[VECTORS];
};

// numbers that begin where a vector may
class Array {
   public:
    void resize(size_t count) { numbers.reset(new (std::align_val_t(64)) float[count]); }
    float* data() { return numbers.get(); }
    const float* data() const { return numbers.get(); }
    float& operator[](size_t i) { return numbers[i]; }

   private:
    struct Free {
        void operator()(float* at) const { ::operator delete[](at, std::align_val_t(64)); }
    };
    std::unique_ptr<float[], Free> numbers;
};

inline Vec load(const float* at) { return *reinterpret_cast<const Loose*>(at); }
inline void store(float* at, Vec x) { *reinterpret_cast<Loose*>(at) = x; }
inline Vec all(float x) { return x - Vec{}; }

// 2^x for x <= 0, to the last bit or two, and 0 for the smallest of them; of what is no number, no number
inline Vec power_of_two(Vec x) {
    const Vec some = x < -126.0f ? all(-126.0f) : x, magic = all(12582912.0f);
    const Vec whole = (some + magic) - magic, part = some - whole;
    Vec y = all(1.535336188319500e-4f);
    y = y * part + 1.339887440266574e-3f;
    y = y * part + 9.618437357674640e-3f;
    y = y * part + 5.550332471162809e-2f;
    y = y * part + 2.402264791363012e-1f;
    y = y * part + 6.931472028550421e-1f;
    y = y * part + 1.0f;
    const Int shifted = __builtin_convertvector(whole, Int) << 23;
    return x < -126.0f ? Vec{} : (Vec)((Int)y + shifted);
}

// numbers of two vectors, by their places in both
inline Vec shuffled(Vec first, Vec second, Int places) {
#if defined(__clang__)
    Vec found;
    for (int i = 0; i < WIDTH; i++) found[i] = places[i] < WIDTH ? first[places[i]] : second[places[i] - WIDTH];
    return found;
#else
    return __builtin_shuffle(first, second, places);
#endif
}

constexpr float LOG2_E = 1.4426950408889634f;

// x / (1 + e^-x), by the power of a number that is not positive
inline Vec silu(Vec x) {
    const Vec size = x < 0.0f ? -x : x;
    const Vec small = power_of_two(size * -LOG2_E);
    const Vec chance = 1.0f / (1.0f + small);
    return x * (x < 0.0f ? small * chance : chance);
}

// V: how many of a panel's vectors are in use; the last layer is asked for fewer and fewer places
//
// M rows of `a` times the first V vectors of a panel of `depth` rows: each number of `a` is used for all lanes
template <int M, int V>
inline void multiply(const float* a, int64_t of_row, int64_t of_depth, const float* panel, int64_t depth, Pair* sum) {
    for (int m = 0; m < M; m++)
        for (int v = 0; v < V; v++) sum[m].of[v] = Vec{};
    for (int64_t k = 0; k < depth; k++) {
        Vec here[V];
        for (int v = 0; v < V; v++) here[v] = load(panel + k * LANES + v * WIDTH);
        // of weights, which may come from far, those of the next rows
        if (of_depth == TILE) __builtin_prefetch(a + (k + depth) * TILE, 0, 2);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
            const float number = a[k * of_depth + m * of_row];
            for (int v = 0; v < V; v++) sum[m].of[v] += number * here[v];
        }
    }
}

template <int M, int V, typename Use>
inline void rows(const float* a, int64_t of_row, int64_t of_depth, const float* panel, int64_t depth, Use use) {
    Pair sum[M];
    multiply<M, V>(a, of_row, of_depth, panel, depth, sum);
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) use(m, sum[m]);
}

// the same for any number of rows; `use` is told each row's number and its product
template <int V, typename Use>
inline void every_row(
    const float* a, int64_t of_row, int64_t of_depth, int64_t count, const float* panel, int64_t depth, Use use) {
    int64_t i = 0;
    for (; i + TILE <= count; i += TILE)
        rows<TILE, V>(a + i * of_row, of_row, of_depth, panel, depth, [&](int m, const Pair& x) { use(i + m, x); });
    for (; i + 2 <= count; i += 2)
        rows<2, V>(a + i * of_row, of_row, of_depth, panel, depth, [&](int m, const Pair& x) { use(i + m, x); });
    for (; i < count; i++)
        rows<1, V>(a + i * of_row, of_row, of_depth, panel, depth, [&](int m, const Pair& x) { use(i + m, x); });
}

// weights as they are laid out for `multiply`: eight rows' numbers side by side, `[ceil(rows / 8), depth, 8]`
template <int V, typename Use>
inline void product(const float* packed, int64_t count, const float* panel, int64_t depth, Use use) {
    for (int64_t i = 0; i < count; i += TILE)
        rows<TILE, V>(packed + i * depth, 1, TILE, panel, depth, [&](int m, const Pair& x) {
            if (i + m < count) use(i + m, x);
        });
}

// WIDTH rows of WIDTH numbers, in place: in each round, halves of pairs of rows change places
template <int STEP = WIDTH / 2>
inline void transpose(Vec* row) {
    Int low, high;
    for (int i = 0; i < WIDTH; i++) {
        const bool is_second = i & STEP;
        low[i] = is_second ? WIDTH + i - STEP : i;
        high[i] = is_second ? WIDTH + i : i + STEP;
    }
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++) {
        if (i & STEP) continue;
        const Vec first = row[i], second = row[i + STEP];
        row[i] = shuffled(first, second, low);
        row[i + STEP] = shuffled(first, second, high);
    }
    if constexpr (STEP > 1) transpose<STEP / 2>(row);
}

// rows of features, which `from` knows, to a panel; lanes behind the last row repeat it: nothing overflows there
template <typename From>
inline void to_panel(int64_t count, int64_t features, float* panel, From from) {
    auto own = [&](int64_t lane) { return from(std::min(lane, count - 1)); };
    const int64_t whole = features / WIDTH * WIDTH;
    for (int first = 0; first < LANES; first += WIDTH)
        for (int64_t i = 0; i < whole; i += WIDTH) {
            Vec row[WIDTH];
            for (int j = 0; j < WIDTH; j++) row[j] = load(own(first + j) + i);
            transpose(row);
            for (int j = 0; j < WIDTH; j++) store(panel + (i + j) * LANES + first, row[j]);
        }
    for (int lane = 0; lane < LANES; lane++)
        for (int64_t i = whole; i < features; i++) panel[i * LANES + lane] = own(lane)[i];
}

// the inverse: each lane of a panel to where `to` says
template <typename To>
inline void from_panel(const float* panel, int64_t count, int64_t features, To to) {
    const int64_t whole = features / WIDTH * WIDTH;
    for (int64_t first = 0; first < count; first += WIDTH)
        for (int64_t i = 0; i < whole; i += WIDTH) {
            Vec row[WIDTH];
            for (int j = 0; j < WIDTH; j++) row[j] = load(panel + (i + j) * LANES + first);
            transpose(row);
            for (int64_t j = 0; j < std::min<int64_t>(WIDTH, count - first); j++) store(to(first + j) + i, row[j]);
        }
    for (int64_t lane = 0; lane < count; lane++)
        for (int64_t i = whole; i < features; i++) to(lane)[i] = panel[i * LANES + lane];
}

}  // namespace

extern "C" {

struct LayerWeights {
    const float *attention_norm, *queries, *queries_bias, *keys, *keys_bias, *values, *values_bias;
    const float *query_norm, *key_norm, *seen, *mlp_norm, *gate_up, *down;
};

struct Network {
    int64_t layers, width, heads, key_heads, head_width, mlp_width;
    float eps;
    const LayerWeights* layer;
    const float *last_norm, *embedding;
    int64_t words;
    float embedding_scale;
    const float* first;  // [words, queries, keys and values side by side] of the first layer; null: computed
};

// One forward. Arrays as in the Python that calls: tokens [rows, length], cos and sin [rows or 1, length, head_width],
// keys and values [layers, -, key_heads, capacity, head_width], mask [rows or 1, length or 1, seen].
struct Call {
    int64_t rows, length, seen, threads;
    const int64_t* tokens;
    const float *cos, *sin;
    int64_t angles_of_row;
    float *keys, *values;
    int64_t of_layer, of_row, of_head;
    const int64_t *row, *column;  // where each row is stored; null: as they come, from `start` on
    int64_t start;
    const uint8_t* mask;
    int64_t mask_of_row, mask_of_query;
    const int64_t* wanted;  // flat places that are asked for, in any order; null: all
    int64_t wanted_count;
    float* hidden;  // [wanted_count or rows * length, width]
};

int64_t tile() { return TILE; }
int64_t lanes() { return LANES; }
}

namespace {

// some rows of a batch, and what a thread needs to work on them
class Rows {
   public:
    Rows(const Network& network, const Call& call, int64_t first, int64_t end)
        : net(network), call(call), width(network.width), head(network.head_width), first(first), end(end),
          panels((call.length + LANES - 1) / LANES) {
        const int64_t inner = net.heads * head, angles = call.angles_of_row ? end - first : 1;
        x.resize((end - first) * panels * width * LANES);
        cos.resize(angles * panels * head * LANES);
        sin.resize(angles * panels * head * LANES);
        asked.resize(width * LANES);
        asked_cos.resize(head * LANES);
        asked_sin.resize(head * LANES);
        normed.resize(width * LANES);
        queries.resize(inner * LANES);
        seen.resize(inner * LANES);
        narrow.resize(net.key_heads * head * LANES);
        gated.resize((net.mlp_width + TILE) * LANES);
        scores.resize(call.seen * LANES);
        if (call.mask) veil.resize(call.seen * LANES);
    }

    // layer after layer, each for all rows: its weights stay near meanwhile
    void forward() {
        for (row = first; row < end; row++) {
            const bool is_new = call.angles_of_row || row == first;
            for (int64_t p = 0; p < panels; p++) {
                const int64_t at = p * LANES, count = std::min<int64_t>(LANES, call.length - at);
                embed(call.tokens + row * call.length + at, count, stream(p));
                const int64_t angle = row * call.angles_of_row + at * head;
                auto turn = [&](const float* by, Array& of) {
                    to_panel(count, head, angles(of, p), [&](int64_t lane) { return by + angle + lane * head; });
                };
                if (is_new) turn(call.cos, cos), turn(call.sin, sin);
            }
        }
        for (int64_t layer = 0; layer < net.layers; layer++) {
            weights = net.layer + layer;
            for (row = first; row < end; row++) {
                const int64_t stored = layer * call.of_layer + (call.row ? call.row[row] : row) * call.of_row;
                keys = call.keys + stored;
                values = call.values + stored;
                listed = layer == 0 ? net.first : nullptr;
                for (int64_t p = 0; p < panels; p++) remember(p);
                if (layer + 1 == net.layers && call.wanted)
                    answer_wanted();
                else
                    for (int64_t p = 0; p < panels; p++) answer_panel(p, layer + 1 == net.layers);
            }
        }
    }

   private:
    const Network& net;
    const Call& call;
    const int64_t width, head, first, end, panels;
    int64_t row = 0, place[LANES], to[LANES];
    const LayerWeights* weights = nullptr;
    float *keys = nullptr, *values = nullptr;
    const float* listed = nullptr;  // see `Network.first`, in the first layer
    std::vector<int64_t> wanted;
    Array x, asked, normed, queries, seen, narrow, gated, scores, veil, cos, sin, asked_cos, asked_sin;

    float* stream(int64_t p) { return x.data() + ((row - first) * panels + p) * width * LANES; }

    float* angles(Array& of, int64_t p) {
        return of.data() + ((call.angles_of_row ? row - first : 0) * panels + p) * head * LANES;
    }

    void embed(const int64_t* tokens, int64_t count, float* panel) const {
        to_panel(count, width, panel, [&](int64_t lane) { return net.embedding + tokens[lane] * width; });
        if (net.embedding_scale != 1.0f)
            for (int64_t i = 0; i < width * LANES; i += WIDTH) store(panel + i, load(panel + i) * net.embedding_scale);
    }

    template <int V>
    void norm(const float* from, const float* weight, int64_t features, float* to) const {
        for (int v = 0; v < V * WIDTH; v += WIDTH) {
            Vec square = Vec{};
            for (int64_t i = 0; i < features; i++) {
                const Vec here = load(from + i * LANES + v);
                square += here * here;
            }
            Vec scale;
            for (int i = 0; i < WIDTH; i++) scale[i] = 1.0f / std::sqrt(square[i] / features + net.eps);
            for (int64_t i = 0; i < features; i++)
                store(to + i * LANES + v, load(from + i * LANES + v) * scale * weight[i]);
        }
    }

    // a product with what is normed; or, where each token's is listed, those of the tokens at `place`
    template <int V>
    void project(const float* packed, const float* bias, int64_t count, float* to, int64_t from) {
        if (listed) {
            const int64_t of_word = (net.heads + 2 * net.key_heads) * head;
            const int64_t* token = call.tokens + row * call.length;
            to_panel(LANES, count, to, [&](int64_t lane) { return listed + token[place[lane]] * of_word + from; });
            return;
        }
        product<V>(packed, count, normed.data(), width, [&](int64_t i, const Pair& sum) {
            const float added = bias ? bias[i] : 0.0f;
            for (int v = 0; v < V; v++) store(to + i * LANES + v * WIDTH, sum.of[v] + added);
        });
    }

    // per head: the norm of some families, then the rotation
    template <int V>
    void finish(float* panel, int64_t heads, const float* weight, const float* of_cos, const float* of_sin) const {
        const int64_t half = head / 2 * LANES;
        for (int64_t h = 0; h < heads; h++) {
            float* own = panel + h * head * LANES;
            if (weight) norm<V>(own, weight, head, own);
            for (int64_t i = 0; i < half; i += i % LANES + WIDTH < V * WIDTH ? WIDTH : LANES - i % LANES) {
                const Vec first = load(own + i), second = load(own + half + i);
                store(own + i, first * load(of_cos + i) + second * load(of_sin + i));
                store(own + half + i, second * load(of_cos + half + i) + first * load(of_sin + half + i));
            }
        }
    }

    void keep(float* stored, int64_t from_place, int64_t count) const {
        for (int64_t h = 0; h < net.key_heads; h++)
            from_panel(narrow.data() + h * head * LANES, count, head, [&](int64_t lane) {
                const int64_t at = from_place + lane;
                const int64_t column = call.column ? call.column[row * call.length + at] : call.start + at;
                return stored + h * call.of_head + column * head;
            });
    }

    // the keys and values of a panel, into what is stored
    void remember(int64_t p) {
        const int64_t at = p * LANES, count = std::min<int64_t>(LANES, call.length - at);
        const int64_t inner = net.heads * head, of_keys = net.key_heads * head;
        stand_at(p);
        if (!listed) norm<VECTORS>(stream(p), weights->attention_norm, width, normed.data());
        project<VECTORS>(weights->keys, weights->keys_bias, of_keys, narrow.data(), inner);
        finish<VECTORS>(narrow.data(), net.key_heads, weights->key_norm, angles(cos, p), angles(sin, p));
        keep(keys, at, count);
        project<VECTORS>(weights->values, weights->values_bias, of_keys, narrow.data(), inner + of_keys);
        keep(values, at, count);
    }

    void stand_at(int64_t p) {
        for (int lane = 0; lane < LANES; lane++) place[lane] = std::min(p * LANES + lane, call.length - 1);
    }

    void answer_panel(int64_t p, bool is_last) {
        stand_at(p);
        answer<VECTORS>(stream(p), angles(cos, p), angles(sin, p));
        if (!is_last) return;
        for (int lane = 0; lane < LANES; lane++) to[lane] = row * call.length + p * LANES + lane;
        hand_out(stream(p), std::min<int64_t>(LANES, call.length - p * LANES));
    }

    // a panel of the stream after the layer, in place
    template <int V>
    void answer(float* panel, const float* of_cos, const float* of_sin) {
        if (!listed) norm<V>(panel, weights->attention_norm, width, normed.data());
        project<V>(weights->queries, weights->queries_bias, net.heads * head, queries.data(), 0);
        finish<V>(queries.data(), net.heads, weights->query_norm, of_cos, of_sin);
        if (call.mask) draw_veil();
        for (int64_t h = 0; h < net.heads; h++) look<V>(h);
        add<V>(weights->seen, seen.data(), net.heads * head, panel);
        norm<V>(panel, weights->mlp_norm, width, normed.data());
        for (int64_t i = 0; i < net.mlp_width; i += HALF) {
            Pair sum[TILE];
            multiply<TILE, V>(weights->gate_up + 2 * i * width, 1, TILE, normed.data(), width, sum);
            for (int m = 0; m < HALF; m++)
                for (int v = 0; v < V; v++)
                    store(gated.data() + (i + m) * LANES + v * WIDTH, silu(sum[m].of[v]) * sum[HALF + m].of[v]);
        }
        add<V>(weights->down, gated.data(), net.mlp_width, panel);
    }

    template <int V>
    void add(const float* packed, const float* from, int64_t depth, float* panel) {
        product<V>(packed, width, from, depth, [&](int64_t i, const Pair& sum) {
            for (int v = 0; v < V; v++) {
                float* at = panel + i * LANES + v * WIDTH;
                store(at, load(at) + sum.of[v]);
            }
        });
    }

    // what a head sees of the keys and values that are stored
    template <int V>
    void look(int64_t h) {
        const int64_t shared = h / (net.heads / net.key_heads) * call.of_head;
        const float scale = LOG2_E / std::sqrt(float(head));
        every_row<V>(keys + shared, head, 1, call.seen, queries.data() + h * head * LANES, head,
            [&](int64_t key, const Pair& sum) {
                // not read since the last step: on their way while the scores are computed
                for (int64_t i = 0; i < head; i += 16) __builtin_prefetch(values + shared + key * head + i, 0, 2);
                for (int v = 0; v < V; v++) store(scores.data() + key * LANES + v * WIDTH, sum.of[v] * scale);
            });
        if (call.mask)
            for (int64_t key = 0; key < call.seen; key++)
                for (int v = 0; v < V; v++) hide(key * LANES + v * WIDTH);
        Pair share;
        for (int v = 0; v < V; v++) {
            float* own = scores.data() + v * WIDTH;
            Vec most = all(-INFINITY), total = Vec{};
            for (int64_t key = 0; key < call.seen; key++) {
                const Vec here = load(own + key * LANES);
                most = here > most ? here : most;
            }
            most = most == -INFINITY ? Vec{} : most;
            for (int64_t key = 0; key < call.seen; key++) {
                const Vec weight = power_of_two(load(own + key * LANES) - most);
                total += weight;
                store(own + key * LANES, weight);
            }
            share.of[v] = total == 0.0f ? Vec{} : 1.0f / total;
        }
        every_row<V>(values + shared, 1, head, head, scores.data(), call.seen, [&](int64_t i, const Pair& sum) {
            for (int v = 0; v < V; v++)
                store(seen.data() + (h * head + i) * LANES + v * WIDTH, sum.of[v] * share.of[v]);
        });
    }

    void hide(int64_t at) {
        store(scores.data() + at, load(veil.data() + at) != 0.0f ? all(-INFINITY) : load(scores.data() + at));
    }

    // 1 where a lane does not see a key
    void draw_veil() {
        const uint8_t* own = call.mask + row * call.mask_of_row;
        for (int lane = 0; lane < LANES; lane++)
            for (int64_t key = 0; key < call.seen; key++)
                veil[key * LANES + lane] = own[place[lane] * call.mask_of_query + key] ? 0.0f : 1.0f;
    }

    void answer_wanted() {
        wanted.clear();
        for (int64_t i = 0; i < call.wanted_count; i++)
            if (call.wanted[i] / call.length == row) wanted.push_back(i);
        for (size_t from = 0; from < wanted.size(); from += LANES) {
            const int64_t count = std::min<int64_t>(LANES, wanted.size() - from);
            for (int lane = 0; lane < LANES; lane++) {
                to[lane] = wanted[from + std::min<int64_t>(lane, count - 1)];
                place[lane] = call.wanted[to[lane]] % call.length;
                const int64_t p = place[lane] / LANES, at = place[lane] % LANES;
                const float *of_x = stream(p) + at, *of_cos = angles(cos, p) + at, *of_sin = angles(sin, p) + at;
                for (int64_t i = 0; i < width; i++) asked[i * LANES + lane] = of_x[i * LANES];
                for (int64_t i = 0; i < head; i++) {
                    asked_cos[i * LANES + lane] = of_cos[i * LANES];
                    asked_sin[i * LANES + lane] = of_sin[i * LANES];
                }
            }
            if (count <= WIDTH)
                answer<1>(asked.data(), asked_cos.data(), asked_sin.data());
            else
                answer<VECTORS>(asked.data(), asked_cos.data(), asked_sin.data());
            hand_out(asked.data(), count);
        }
    }

    void hand_out(const float* panel, int64_t count) {
        norm<VECTORS>(panel, net.last_norm, width, normed.data());
        from_panel(normed.data(), count, width, [&](int64_t lane) { return call.hidden + to[lane] * width; });
    }
};

}  // namespace

namespace {

// some of `count` rows on each thread; which ones makes no difference to any of them. False: memory did not suffice
template <typename Work>
bool in_parts(int64_t threads, int64_t count, Work work) {
    const int64_t parts = std::max<int64_t>(1, std::min(threads, count));
    std::atomic<bool> is_done{true};
    auto some = [&](int64_t part) {
        try {
            work(part * count / parts, (part + 1) * count / parts);
        } catch (const std::bad_alloc&) {
            is_done = false;
        }
    };
    std::vector<std::thread> others;
    int64_t own = 1;
    try {
        others.reserve(parts);
        for (; own < parts; own++) others.emplace_back(some, parts - own);
    } catch (const std::exception&) {
        // no more threads are to be had: the rest is for this one
    }
    for (int64_t part = 0; part <= parts - own; part++) some(part);
    for (auto& other : others) other.join();
    return is_done;
}

// the first of a row's highest numbers and its log-probability; `row` has room for whole vectors, of numbers that no
// other exceeds
inline void judge_row(std::vector<float>& row, int64_t words, int64_t* token, float* log_prob) {
    Vec most = all(-INFINITY), total = Vec{};
    for (size_t k = 0; k < row.size(); k += WIDTH) {
        const Vec here = load(&row[k]);
        most = here > most ? here : most;
    }
    float best = -INFINITY, sum = 0;
    for (int v = 0; v < WIDTH; v++) best = std::max(best, most[v]);
    best = best == -INFINITY ? 0 : best;
    for (size_t k = 0; k < row.size(); k += WIDTH) total += power_of_two((load(&row[k]) - best) * LOG2_E);
    for (int v = 0; v < WIDTH; v++) sum += total[v];
    *token = std::find_if(row.begin(), row.begin() + words, [&](float x) { return x >= best; }) - row.begin();
    *token = *token == words ? 0 : *token;
    const float found = row[*token] - best - std::max(0.0f, std::log(sum));
    *log_prob = sum != sum ? sum : std::max(found, -FLT_MAX);
}

}  // namespace

// what becomes of a call
enum Outcome { DONE, UNLIKE, NO_MEMORY };

// UNLIKE: a token has no row in the embedding, and nothing was computed
extern "C" Outcome forward(const Network* network, const Call* call) {
    const int64_t words = network->words, count = call->rows * call->length;
    auto is_unknown = [=](int64_t token) { return token < 0 || token >= words; };
    if (std::any_of(call->tokens, call->tokens + count, is_unknown)) return UNLIKE;
    auto some = [=](int64_t first, int64_t end) { Rows(*network, *call, first, end).forward(); };
    return in_parts(call->threads, call->rows, some) ? DONE : NO_MEMORY;
}

// x [rows, depth] times a weight whose rows lie side by side, `[ceil(count / LANES), depth, LANES]`: out [rows, count]
extern "C" void multiply_rows(
    const float* x, int64_t count_x, int64_t depth, const float* panels, int64_t count, float* out) {
    for (int64_t first = 0; first < count; first += LANES)
        every_row<VECTORS>(x, depth, 1, count_x, panels + first * depth, depth, [&](int64_t i, const Pair& sum) {
            float* to = out + i * count + first;
            const int64_t some = std::min<int64_t>(LANES, count - first);
            for (int v = 0; v < VECTORS; v++)
                if ((v + 1) * WIDTH <= some)
                    store(to + v * WIDTH, sum.of[v]);
                else
                    for (int64_t j = v * WIDTH; j < some; j++) to[j] = sum.of[v][j % WIDTH];
        });
}

// what `judge_row` says of each row of logits, some ids left out, where `pending` has it, and nothing elsewhere; UNLIKE:
// these are not as many. See `native/judge.py`.
extern "C" Outcome judge(
    const float* logits, int64_t rows, int64_t words, const int64_t* never, int64_t never_count, int64_t threads,
    const bool* pending, int64_t places, int64_t* token, float* log_prob) {
    std::fill_n(token, places, 0);
    std::fill_n(log_prob, places, -INFINITY);
    if (std::count(pending, pending + places, true) != rows) return UNLIKE;
    auto some = [=](int64_t first, int64_t end) {
        std::vector<float> row((words + WIDTH - 1) / WIDTH * WIDTH, -INFINITY);
        int64_t place = -1;
        for (int64_t i = 0; i < end; i++) {
            do place++;
            while (!pending[place]);
            if (i < first) continue;
            std::copy(logits + i * words, logits + (i + 1) * words, row.begin());
            for (int64_t j = 0; j < never_count; j++)
                if (never[j] < words) row[never[j]] = -INFINITY;
            judge_row(row, words, token + place, log_prob + place);
        }
    };
    return in_parts(threads, rows, some) ? DONE : NO_MEMORY;
}
