/* ccm: an encoder and decoder of .ccm pictures (FORMAT.md), as a C library without dependencies.

   A model is opened once and may then be used by any number of threads at the same time. Nothing is thrown and nothing
   aborts across this interface, whatever the bytes are: every function that can fail returns a ccm_status, and
   ccm_last_error() says more. Memory belongs to the caller, but for what
   ccm_model_close() and ccm_free() free.

     ccm_model* model;
     ccm_info info;
     if (ccm_model_open("ccm-small.safetensors", NULL, &model) == CCM_OK &&
         ccm_read_info(data, size, CCM_MAX_PIXELS, &info) == CCM_OK) {
       uint8_t* pixels = malloc(3 * info.width * info.height);
       ccm_status status = ccm_decode(model, data, size, CCM_RGB8, pixels, 3 * info.width, NULL);
       ...
     }

   examples/decode.c is a whole program. */
#ifndef CCM_H
#define CCM_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(CCM_BUILDING)
#define CCM_API __declspec(dllexport)
#elif defined(__GNUC__) && !defined(_WIN32)
#define CCM_API __attribute__((visibility("default")))
#else
#define CCM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ccm_status {
  CCM_OK = 0,
  CCM_NOT_CCM = 1,     /* the bytes do not begin like a .ccm file */
  CCM_TRUNCATED = 2,   /* they end before their header says so */
  CCM_DAMAGED = 3,     /* a checksum, a final coder state or a field contradicts the rest */
  CCM_WRONG_MODEL = 4, /* written with another model */
  CCM_UNSUPPORTED = 5, /* a newer or unknown version of the format */
  CCM_LIMIT = 6,       /* more pixels or bytes than allowed */
  CCM_BAD_MODEL = 7,   /* the weights file is not usable */
  CCM_ARGUMENT = 8,    /* an argument is out of range, or null */
  CCM_FILE = 9,        /* a file cannot be opened or read */
  CCM_ENCODE = 10,     /* the picture cannot be encoded */
  CCM_MEMORY = 11,     /* no memory */
  CCM_INTERNAL = 12    /* a fault of this library */
} ccm_status;

/* A model, ready to decode. Immutable. */
typedef struct ccm_model ccm_model;

/* Samples are unsigned; those of 16 bits are in the machine's byte order. Pictures of one channel have three equal ones
   in RGB; colour pictures cannot be decoded to grey. */
typedef enum ccm_format { CCM_RGB8 = 0, CCM_RGB16 = 1, CCM_GREY8 = 2, CCM_GREY16 = 3 } ccm_format;

/* Pillow's limit against decompression bombs, about 179 million. */
#define CCM_MAX_PIXELS INT64_C(178956970)

/* Set by ccm_options_init(); then change what is to be different. */
typedef struct ccm_options {
  int32_t threads;          /* threads of a call, the caller's among them; 0: as many as the process has cores */
  int32_t float_transforms; /* not 0: transforms multiply floats even where 16-bit integers are faster */
  const char* isa;          /* instruction set of the entropy path ("scalar", "avx2", ...); "" or NULL: that of the
                               environment variable CCM_FAST_ISA, which the transforms heed too; else the best */
  int64_t max_pixels;       /* larger pictures are refused; 0: no limit but the format's */
  /* ccm_decode(): the rectangle of the picture that is wanted, in pixels from its upper left corner. Its pixels are
     those of the whole picture; what lies far from it is read, but not computed. Width and height 0: all of it. */
  int64_t crop_x, crop_y, crop_width, crop_height;
} ccm_options;

CCM_API void ccm_options_init(ccm_options* options);

/* "1.2.3". */
CCM_API const char* ccm_version(void);

/* "CCM_DAMAGED". */
CCM_API const char* ccm_status_name(ccm_status status);

/* A sentence about the last failure of a call by this thread; valid until the thread's next call. Never null. */
CCM_API const char* ccm_last_error(void);

/* Opens a weights file. options: threads (of packing), float_transforms and isa; NULL: the defaults. *model is null
   after a failure. */
CCM_API ccm_status ccm_model_open(const char* path, const ccm_options* options, ccm_model** model);

/* The same from `size` bytes in memory, which are copied. */
CCM_API ccm_status ccm_model_open_memory(const void* data, size_t size, const ccm_options* options, ccm_model** model);

/* Null is allowed. No other call may be using the model. */
CCM_API void ccm_model_close(ccm_model* model);

/* 8 bytes that every file of this model carries. */
CCM_API void ccm_model_fingerprint(const ccm_model* model, uint8_t fingerprint[8]);

/* What a file says of itself, without decoding. */
typedef struct ccm_info {
  int64_t width, height; /* pixels */
  double quality;        /* 1 to 8 */
  int32_t version;       /* of the format */
  int32_t grey;          /* 1: the picture has one channel */
  uint8_t fingerprint[8];
} ccm_info;

/* max_pixels <= 0: no limit but the format's. Checksums of chunks are checked, that of the packet is not. */
CCM_API ccm_status ccm_read_info(const void* data, size_t size, int64_t max_pixels, ccm_info* info);

/* A chunk of a file: kind 'I' the ICC profile, 'X' the EXIF block, 'A' the alpha channel as an 8-bit grey PNG. *chunk
   points into `data`; null, and CCM_OK, where there is none. */
CCM_API ccm_status ccm_find_chunk(const void* data, size_t size, char kind, const uint8_t** chunk, size_t* chunk_size);

/* Decodes a file to rows of pixels, `row_bytes` from one to the next: of the whole picture, or of the rectangle that
   options name. The pixels are of whatever values after a failure. options: threads, max_pixels and crop_*; NULL: the
   defaults. CCM_ARGUMENT: the rectangle has no pixels, or does not lie within the picture. */
CCM_API ccm_status ccm_decode(const ccm_model* model, const void* data, size_t size, ccm_format format, void* pixels,
                              size_t row_bytes, const ccm_options* options);

/* The latents of a file, int16 [*h][*w][*channels]: the same numbers on every machine. With latents NULL only the sizes
   are written; `capacity` is what latents has room for, in numbers. */
CCM_API ccm_status ccm_decode_latents(const ccm_model* model, const void* data, size_t size, int16_t* latents,
                                      size_t capacity, int64_t* h, int64_t* w, int64_t* channels,
                                      const ccm_options* options);

/* Set by ccm_encode_options_init(); then change what is to be different. */
typedef struct ccm_encode_options {
  double quality;                 /* 1 (smallest) to 8 (best), in 1/32 steps; 4 */
  int32_t effort;                 /* 1 to 3; 0: the model's default */
  int32_t lanes;                  /* rANS lanes of every stream, a power of two up to 128; 0: chosen by the payload */
  int32_t threads;                /* as in ccm_options */
  const void *icc, *exif, *alpha; /* chunks 'I', 'X' and 'A' of so many bytes; NULL: none */
  size_t icc_size, exif_size, alpha_size;
} ccm_encode_options;

CCM_API void ccm_encode_options_init(ccm_encode_options* options);

/* Encodes rows of pixels, `row_bytes` from one to the next, to a file of *size bytes at *data, which is the caller's
   and goes to ccm_free(). Grey formats make grey pictures. options: NULL: the defaults. *data is null after a failure.
 */
CCM_API ccm_status ccm_encode(const ccm_model* model, const void* pixels, int64_t width, int64_t height,
                              ccm_format format, size_t row_bytes, const ccm_encode_options* options, void** data,
                              size_t* size);

/* Null is allowed. */
CCM_API void ccm_free(void* data);

#ifdef __cplusplus
}
#endif

#endif /* CCM_H */
