// The PSA mask on a GPU: attention logits between all pairs of positions, from the maps that they predict.
//
// map (N, mask_h * mask_w, H, W), attention (N, H * W, H * W): [n, source, target]. Each position c (the
// centre) holds a picture of mask_h x mask_w values whose middle is c; what it says of the other position o
// lies in channel (o.row - c.row + (mask_h - 1) / 2) * mask_w + (o.column - c.column + (mask_w - 1) / 2), and
// is 0 outside the picture. Collect: the centre is the target; distribute: the source. models/psa_mask.py is
// the same op in PyTorch.
//
// Values are moved, never computed with, so a kernel knows their size alone: 32 bits (float) and 16 (half).
// It needs no header: NVRTC compiles it as it stands (export/nvrtc.py), and so does a C++ compiler with a few
// lines that stand in for the GPU (tests/export/kernel_host.h).
//
// Values of one channel lie side by side for neighbouring centres, but belong on a diagonal of the attention.
// So a block of 32 x 8 threads takes a tile of 32 centres x 32 others and reads it diagonal by diagonal
// (other = centre + k, wrapping round in the tile), which are runs in memory; it collects them in shared
// memory, without bank conflicts, and writes the tile row by row. Grid: (tiles of targets, tiles of sources, N).

#define TILE 32
#define THREAD_ROWS 8

template <typename Word>
__device__ __forceinline__ Word value_of(
    const Word* map, int centre, int other, int width, int positions, int mask_h, int mask_w) {
    if (centre >= positions || other >= positions) return 0;
    const int row = other / width - centre / width + (mask_h - 1) / 2;
    const int column = other % width - centre % width + (mask_w - 1) / 2;
    if (row < 0 || row >= mask_h || column < 0 || column >= mask_w) return 0;
    return map[(long long)(row * mask_w + column) * positions + centre];
}

template <typename Word>
__device__ __forceinline__ void psa_mask(
    const Word* map, int height, int width, int mask_h, int mask_w, int distribute, Word* attention,
    Word (*tile)[TILE]) {
    const int positions = height * width;
    const int first_target = blockIdx.x * TILE, first_source = blockIdx.y * TILE;
    const int first_centre = distribute ? first_source : first_target;
    const int first_other = distribute ? first_target : first_source;
    map += (long long)blockIdx.z * mask_h * mask_w * positions;
    attention += (long long)blockIdx.z * positions * positions;

    const int near = threadIdx.x;
    for (int diagonal = threadIdx.y; diagonal < TILE; diagonal += THREAD_ROWS) {
        const int far = (near + diagonal) % TILE;
        const Word value = value_of(
            map, first_centre + near, first_other + far, width, positions, mask_h, mask_w);
        if (distribute) tile[near][far] = value;
        else tile[far][near] = value;
    }
    __syncthreads();

    const int target = first_target + threadIdx.x;
    for (int row = threadIdx.y; row < TILE; row += THREAD_ROWS) {
        const int source = first_source + row;
        if (source < positions && target < positions)
            attention[(long long)source * positions + target] = tile[row][threadIdx.x];
    }
}

extern "C" __global__ void psanet_psa_mask_32(
    const unsigned int* map, int height, int width, int mask_h, int mask_w, int distribute,
    unsigned int* attention) {
    __shared__ unsigned int tile[TILE][TILE];
    psa_mask(map, height, width, mask_h, mask_w, distribute, attention, tile);
}

extern "C" __global__ void psanet_psa_mask_16(
    const unsigned short* map, int height, int width, int mask_h, int mask_w, int distribute,
    unsigned short* attention) {
    __shared__ unsigned short tile[TILE][TILE];
    psa_mask(map, height, width, mask_h, mask_w, distribute, attention, tile);
}
