/* A disk that is slow or fails, for LD_PRELOAD: reads of files below $SLOW_FOLDER are short and late; one in $SLOW_FAILS
   fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int concerned(int fd) {
  const char *folder = getenv("SLOW_FOLDER");
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = folder ? readlink(link, path, sizeof path - 1) : -1;
  return length > 0 && (path[length] = 0, strncmp(path, folder, strlen(folder)) == 0);
}

static ssize_t disturbed(size_t *count) {
  const char *fails = getenv("SLOW_FAILS");
  if (fails && *fails && rand() % atoi(fails) == 0) {
    errno = EIO;
    return -1;
  }
  usleep(rand() % 2000);
  if (*count > 1) *count = 1 + rand() % *count;
  return 0;
}

ssize_t read(int fd, void *buffer, size_t count) {
  static ssize_t (*next)(int, void *, size_t);
  if (!next) next = dlsym(RTLD_NEXT, "read");
  if (concerned(fd) && disturbed(&count)) return -1;
  return next(fd, buffer, count);
}

ssize_t pread64(int fd, void *buffer, size_t count, off64_t at) {
  static ssize_t (*next)(int, void *, size_t, off64_t);
  if (!next) next = dlsym(RTLD_NEXT, "pread64");
  if (concerned(fd) && disturbed(&count)) return -1;
  return next(fd, buffer, count, at);
}
