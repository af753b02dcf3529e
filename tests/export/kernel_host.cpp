// Stands in for a GPU: runs a kernel's own source on the CPU, block by block, its threads as fibres that meet
// at __syncthreads(). -DKERNEL='"….cu"' names the source.

#include <ucontext.h>

#include <cstring>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __syncthreads() wait_at_barrier()

struct Index { int x, y, z; };
static Index blockIdx, threadIdx;

struct Fibre {
    ucontext_t context;
    Index index;
    bool done;
    std::vector<char> stack;
};
static std::vector<Fibre> fibres;
static size_t current;
static ucontext_t scheduler;

static void wait_at_barrier() { swapcontext(&fibres[current].context, &scheduler); }

#include KERNEL

struct Call {
    int half;
    const void* map;
    const int* scalars;
    void* attention;
};
static Call call;

static void run_thread() {
    const int* s = call.scalars;
    if (call.half)
        psanet_psa_mask_16((const unsigned short*)call.map, s[0], s[1], s[2], s[3], s[4],
                           (unsigned short*)call.attention);
    else
        psanet_psa_mask_32((const unsigned int*)call.map, s[0], s[1], s[2], s[3], s[4],
                           (unsigned int*)call.attention);
    fibres[current].done = true;
}

// 0: every block ran; 1: threads of a block met at different barriers, on which a GPU would hang.
static int run_block(const int* block) {
    size_t at = 0;
    for (int z = 0; z < block[2]; z++)
        for (int y = 0; y < block[1]; y++)
            for (int x = 0; x < block[0]; x++) {
                Fibre& fibre = fibres[at++];
                fibre.index = {x, y, z};
                fibre.done = false;
                getcontext(&fibre.context);
                fibre.context.uc_stack.ss_sp = fibre.stack.data();
                fibre.context.uc_stack.ss_size = fibre.stack.size();
                fibre.context.uc_link = &scheduler;
                makecontext(&fibre.context, run_thread, 0);
            }
    for (size_t done = 0; done < fibres.size();) {
        if (done) return 1;
        for (current = 0; current < fibres.size(); current++) {
            threadIdx = fibres[current].index;
            swapcontext(&scheduler, &fibres[current].context);
            done += fibres[current].done;
        }
    }
    return 0;
}

extern "C" int run_kernel(const char* entry, const int* grid, const int* block, const void* map,
                          const int* scalars, void* attention) {
    call = {std::strcmp(entry, "psanet_psa_mask_16") == 0, map, scalars, attention};
    if (!call.half && std::strcmp(entry, "psanet_psa_mask_32") != 0) return 2;
    fibres.resize(block[0] * block[1] * block[2]);
    for (Fibre& fibre : fibres) fibre.stack.resize(1 << 14);
    for (int z = 0; z < grid[2]; z++)
        for (int y = 0; y < grid[1]; y++)
            for (int x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                if (run_block(block)) return 1;
            }
    return 0;
}
