// Katran's balancer between the halves of the harness of steer-bench (../../ebpf/programs/src/bench.rs): one flow out of many goes in, and
// what was done to the packet is undone. It is compiled where Katran's published source is, which is not here:
//
//   clang -O2 -target bpf -mcpu=v3 -g -w -I KATRAN -I /usr/include/x86_64-linux-gnu -c katran.bpf.c -o katran.o
//
// for `cargo xtask bench steer --katran katran.o`. Its program becomes a function of ours, and is the same otherwise.
#define PROG_SEC_NAME ".text"
#define balancer_ingress __attribute__((always_inline)) katran
#include "katran/lib/bpf/balancer.bpf.c"

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __type(key, __u32);
  __type(value, __u64);
  __uint(max_entries, 2);
} BENCH SEC(".maps");

// The table of connections of each CPU, of the size that is had in service.
struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __type(key, struct flow_key);
  __type(value, struct real_pos_lru);
  __uint(max_entries, 1 << 22);
} BENCH_LRU SEC(".maps");

static __attribute__((always_inline)) void choose(struct xdp_md* ctx, int source, int ports) {
  __u32 zero = 0, one = 1;
  __u64* flows = bpf_map_lookup_elem(&BENCH, &zero);
  __u64* state = bpf_map_lookup_elem(&BENCH, &one);
  if (!flows || !state) return;
  __u64 x = *state;
  x ^= x << 13; x ^= x >> 7; x ^= x << 17;
  *state = x;
  __u64 flow = (x >> 20) & *flows;
  char* data = (void*)(long)ctx->data;
  if (data + 60 > (char*)(long)ctx->data_end) return;
  *(__u32*)(data + source) = __builtin_bswap32(0x0a000000) | __builtin_bswap32((__u32)flow);
  *(__u16*)(data + ports) = __builtin_bswap16(0x8000 | (__u16)flow);
}

static __attribute__((always_inline)) int undo(struct xdp_md* ctx, int added, __u16 kind) {
  char head[14];
  char* data = (void*)(long)ctx->data;
  if (data + 14 > (char*)(long)ctx->data_end) return XDP_DROP;
  __builtin_memcpy(head, data, 14);
  if (bpf_xdp_adjust_head(ctx, added)) return XDP_DROP;
  data = (void*)(long)ctx->data;
  if (data + 14 > (char*)(long)ctx->data_end) return XDP_DROP;
  __builtin_memcpy(data, head, 12);
  *(__u16*)(data + 12) = __builtin_bswap16(kind);
  return XDP_TX;
}

SEC("xdp") int bench_katran(struct xdp_md* ctx) {
  choose(ctx, 26, 34);
  int action = katran(ctx);
  return action == XDP_TX ? undo(ctx, 20, 0x0800) : action;
}

SEC("xdp") int bench_katran_harness(struct xdp_md* ctx) {
  choose(ctx, 26, 34);
  char head[14];
  char* data = (void*)(long)ctx->data;
  if (data + 14 > (char*)(long)ctx->data_end) return XDP_DROP;
  __builtin_memcpy(head, data, 14);
  if (bpf_xdp_adjust_head(ctx, -20)) return XDP_DROP;
  data = (void*)(long)ctx->data;
  if (data + 14 > (char*)(long)ctx->data_end) return XDP_DROP;
  __builtin_memcpy(data, head + 6, 6);
  __builtin_memcpy(data + 6, head, 6);
  *(__u16*)(data + 12) = __builtin_bswap16(0x0800);
  return undo(ctx, 20, 0x0800);
}
