/* A stand-in for libnvidia-ml.so.1 whose cards come from the file named by NVML_STUB.
 *
 * One line per card: energy_mj power_mw mig state. A negative figure means "not supported",
 * state 1 means that the card fell off the bus. Without the file there is no driver.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NO_DRIVER = 9, LOST = 15, MAX_CARDS = 8 };

struct card {
    long long energy_mj, power_mw, mig, state;
};

static int handles[MAX_CARDS];

static int load(struct card *cards) {
    const char *path = getenv("NVML_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return -1;
    int count = 0;
    while (count < MAX_CARDS &&
           fscanf(file, "%lld %lld %lld %lld", &cards[count].energy_mj, &cards[count].power_mw,
                  &cards[count].mig, &cards[count].state) == 4)
        count++;
    fclose(file);
    return count;
}

static int find(void *handle, struct card *found) {
    struct card cards[MAX_CARDS];
    int count = load(cards), index = (int)((int *)handle - handles);
    if (index < 0 || index >= count || cards[index].state == 1) return LOST;
    *found = cards[index];
    return OK;
}

int nvmlInitWithFlags(unsigned flags) {
    struct card cards[MAX_CARDS];
    (void)flags;
    return load(cards) < 0 ? NO_DRIVER : OK;
}

int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case NOT_SUPPORTED: return "Not Supported";
    case NO_DRIVER: return "Driver Not Loaded";
    case LOST: return "GPU is lost";
    default: return "Unknown Error";
    }
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    struct card cards[MAX_CARDS];
    int found = load(cards);
    if (found < 0) return NO_DRIVER;
    *count = (unsigned)found;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    if (index >= MAX_CARDS) return INVALID;
    *handle = &handles[index];
    return OK;
}

int nvmlDeviceGetTotalEnergyConsumption(void *handle, uint64_t *energy_mj) {
    struct card card;
    int code = find(handle, &card);
    if (code != OK) return code;
    if (card.energy_mj < 0) return NOT_SUPPORTED;
    *energy_mj = (uint64_t)card.energy_mj;
    return OK;
}

int nvmlDeviceGetPowerUsage(void *handle, unsigned *power_mw) {
    struct card card;
    int code = find(handle, &card);
    if (code != OK) return code;
    if (card.power_mw < 0) return NOT_SUPPORTED;
    *power_mw = (unsigned)card.power_mw;
    return OK;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    struct card card;
    int code = find(handle, &card);
    if (code != OK) return code;
    if (card.mig < 0) return NOT_SUPPORTED;
    *current = *pending = (unsigned)card.mig;
    return OK;
}
