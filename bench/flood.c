/* Offers queries at a fixed rate, whatever comes back: dnsperf waits for replies and so cannot overload a server.
 *
 *     flood PORT RATE SECONDS FILE    RATE a second; FILE: messages, each after its length in two octets
 *
 * Prints a line for each second: queries sent, replies with rcode 0, other replies. What cannot be sent in its
 * second is not made up for. In C, and with the kernel cutting up what is sent (UDP_SEGMENT), for one core has to offer twice
 * what another one carries: of 8 clients in turn, as dnsperf is told to be, each four queries. What comes is not put together
 * again (UDP_GRO), for no resolver asks for that, and replies that stay one message cost their sender less. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { CLIENTS = 8, QUERIES = 4, REPLIES = 16, OCTETS = 4096, FILE_OCTETS = 64 << 20, SOCKET_OCTETS = 4 << 20 };

static unsigned char replies[REPLIES][OCTETS];

/* What the kernel is told of a message: into pieces of how many octets. */
union control {
    struct cmsghdr header;
    char octets[CMSG_SPACE(sizeof(uint16_t))];
};

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

    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int clients[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        int s = clients[i] = socket(AF_INET, SOCK_DGRAM, 0);
        if (s < 0 || connect(s, (struct sockaddr *)&there, sizeof there) < 0)
            fail("connecting a socket");
        setsockopt(s, SOL_SOCKET, SO_RCVBUF, &(int){SOCKET_OCTETS}, sizeof(int));
    }

    struct iovec in[REPLIES], out[QUERIES];
    struct mmsghdr received[REPLIES] = {0};
    union control told;
    for (int i = 0; i < REPLIES; i++) {
        in[i] = (struct iovec){replies[i], OCTETS};
        received[i].msg_hdr = (struct msghdr){.msg_iov = &in[i], .msg_iovlen = 1};
    }
    struct msghdr sent = {.msg_iov = out, .msg_control = &told};
    unsigned turn = 0;
    size_t at = 0;
    for (int second = 0; second < seconds; second++) {
        double began = now(), passed;
        long offered = 0, right = 0, other = 0;
        while ((passed = now() - began) < 1) {
            int s = clients[turn++ % CLIENTS];
            long due = (long)(rate * passed) - offered;
            /* One message: questions of one length. */
            int count = 0;
            while (count < QUERIES && count < due) {
                if (at + 2 > octets)
                    at = 0;
                size_t length = (size_t)queries[at] << 8 | queries[at + 1];
                if (count > 0 && length != out[0].iov_len)
                    break;
                out[count++] = (struct iovec){queries + at + 2, length};
                at += 2 + length;
            }
            if (count > 0) {
                sent.msg_iovlen = (size_t)count;
                sent.msg_controllen = CMSG_SPACE(sizeof(uint16_t));
                told.header = (struct cmsghdr){CMSG_LEN(sizeof(uint16_t)), SOL_UDP, UDP_SEGMENT};
                *(uint16_t *)(void *)CMSG_DATA(&told.header) = (uint16_t)out[0].iov_len;
                if (sendmsg(s, &sent, MSG_DONTWAIT) >= 0)
                    offered += count;
            }
            int came = recvmmsg(s, received, REPLIES, MSG_DONTWAIT, NULL);
            for (int i = 0; i < came; i++)
                (replies[i][3] & 15) == 0 ? right++ : other++;
        }
        printf("%ld %ld %ld\n", offered, right, other);
        fflush(stdout);
    }
    return 0;
}
