/* Offers queries at a fixed rate, whatever comes back: dnsperf waits for replies and so cannot overload a server.
 *
 *     flood PORT RATE SECONDS FILE    RATE a second; FILE: messages, each after its length in two octets
 *
 * Prints a line for each second: queries sent, replies with rcode 0, other replies. What cannot be sent in its
 * second is not made up for. In C, for one core has to offer twice what another one carries. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 32, OCTETS = 4096, FILE_OCTETS = 64 << 20, SOCKET_OCTETS = 4 << 20 };

static unsigned char replies[BATCH][OCTETS];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: flood PORT RATE SECONDS FILE\n");
        return 2;
    }
    double rate = atof(argv[2]);
    int seconds = atoi(argv[3]);
    unsigned char *queries = malloc(FILE_OCTETS);
    FILE *file = fopen(argv[4], "rb");
    if (!queries || !file)
        fail(argv[4]);
    size_t octets = fread(queries, 1, FILE_OCTETS, file);

    int s = socket(AF_INET, SOCK_DGRAM, 0), room = SOCKET_OCTETS;
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (s < 0 || connect(s, (struct sockaddr *)&there, sizeof there) < 0)
        fail("connecting the socket");
    setsockopt(s, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);

    struct iovec in[BATCH], out[BATCH];
    struct mmsghdr received[BATCH] = {0}, sent[BATCH] = {0};
    for (int i = 0; i < BATCH; i++) {
        in[i] = (struct iovec){replies[i], OCTETS};
        received[i].msg_hdr = (struct msghdr){.msg_iov = &in[i], .msg_iovlen = 1};
        sent[i].msg_hdr = (struct msghdr){.msg_iov = &out[i], .msg_iovlen = 1};
    }
    size_t at = 0;
    for (int second = 0; second < seconds; second++) {
        double began = now(), passed;
        long offered = 0, right = 0, other = 0;
        while ((passed = now() - began) < 1) {
            long due = (long)(rate * passed) - offered;
            int count = due < BATCH ? (int)due : BATCH;
            for (int i = 0; i < count; i++) {
                if (at + 2 > octets)
                    at = 0;
                size_t length = (size_t)queries[at] << 8 | queries[at + 1];
                out[i] = (struct iovec){queries + at + 2, length};
                at += 2 + length;
            }
            if (count > 0) {
                int gone = sendmmsg(s, sent, (unsigned)count, MSG_DONTWAIT);
                offered += gone > 0 ? gone : 0;
            }
            int came = recvmmsg(s, received, BATCH, MSG_DONTWAIT, NULL);
            for (int i = 0; i < came; i++)
                (replies[i][3] & 15) == 0 ? right++ : other++;
        }
        printf("%ld %ld %ld\n", offered, right, other);
        fflush(stdout);
    }
    return 0;
}
