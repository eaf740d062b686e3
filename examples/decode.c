/* Decodes a .ccm file to a PPM or PGM picture.

     cc -std=c99 -I csrc examples/decode.c ccm_fast/libccm.so -o decode
     ./decode WEIGHTS.safetensors IN.ccm OUT.ppm                          */
#include <ccm.h>
#include <stdio.h>
#include <stdlib.h>

/* A whole file; null if it cannot be read. The caller frees it. */
static unsigned char* read_file(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  unsigned char* data = NULL;
  size_t room = 0, n;
  *size = 0;
  if (!file) return NULL;
  do {
    if (*size == room) {
      unsigned char* more = realloc(data, room = 2 * room + 4096);
      if (!more) break;
      data = more;
    }
    n = fread(data + *size, 1, room - *size, file);
    *size += n;
  } while (n);
  fclose(file);
  return data;
}

static int failed(const char* what, ccm_status status) {
  fprintf(stderr, "%s: %s: %s\n", what, ccm_status_name(status), ccm_last_error());
  return 1;
}

int main(int argc, char** argv) {
  ccm_model* model;
  ccm_info info;
  ccm_status status;
  size_t size, row;
  unsigned char *data, *pixels;
  FILE* out;
  if (argc != 4) {
    fprintf(stderr, "usage: %s WEIGHTS.safetensors IN.ccm OUT.ppm\n", argv[0]);
    return 2;
  }
  status = ccm_model_open(argv[1], NULL, &model);
  if (status != CCM_OK) return failed(argv[1], status);
  data = read_file(argv[2], &size);
  status = ccm_read_info(data, size, CCM_MAX_PIXELS, &info);
  if (status != CCM_OK) return failed(argv[2], status);
  row = (size_t)info.width * (info.grey ? 1 : 3);
  pixels = malloc(row * (size_t)info.height);
  status = ccm_decode(model, data, size, info.grey ? CCM_GREY8 : CCM_RGB8, pixels, row, NULL);
  if (status != CCM_OK) return failed(argv[2], status);
  out = fopen(argv[3], "wb");
  if (!out) return failed(argv[3], CCM_FILE);
  fprintf(out, "P%d\n%d %d\n255\n", info.grey ? 5 : 6, (int)info.width, (int)info.height);
  fwrite(pixels, 1, row * (size_t)info.height, out);
  fclose(out);
  free(pixels);
  free(data);
  ccm_model_close(model);
  return 0;
}
