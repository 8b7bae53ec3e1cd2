/* Preloaded, it has x264 and FFmpeg use plain C only, as on a processor for which they have no assembler. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <string.h>

/* FFmpeg's libraries ask this function what the processor has. */
int av_get_cpu_flags(void) { return 0; }

static int find(struct dl_phdr_info *library, size_t size, void *found)
{
    (void)size;
    if (!strstr(library->dlpi_name, "libx264"))
        return 0;
    *(void **)found = dlopen(library->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
    return 1;
}

/* x264 exports its function under a name with its version; the first field of the settings are the processor's
   features. The library is loaded privately, hence the search. */
#define OPEN(version)                                                                          \
    void *x264_encoder_open_##version(unsigned *settings)                                      \
    {                                                                                          \
        void *library = 0;                                                                     \
        void *(*open)(unsigned *);                                                             \
        dl_iterate_phdr(find, &library);                                                       \
        *(void **)&open = dlsym(library, "x264_encoder_open_" #version);                       \
        settings[0] = 0;                                                                       \
        return open(settings);                                                                 \
    }
OPEN(164)
OPEN(165)
