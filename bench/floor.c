/* The bare loop: what the kernel takes of a server that does nothing. Batches of recvmmsg and sendmmsg, ready
 * answers that only get the query's id, in turn where there are several; no parsing, no timer, no log.
 *
 *     floor PORT HEX...    the answers in hexadecimal
 *
 * In C, for it is the kernel's interface that is measured, and this is its language: no library is between. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 16, OCTETS = 4096 };

static unsigned char queries[BATCH][OCTETS], replies[BATCH][OCTETS];
static struct sockaddr_in from[BATCH];
static struct iovec in[BATCH], out[BATCH];
static struct mmsghdr received[BATCH], sent[BATCH];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc - 2 > BATCH) {
        fprintf(stderr, "usage: floor PORT HEX..., at most %d answers\n", BATCH);
        return 2;
    }
    /* Each place of a batch has an answer of its own, so a copy is made once and not for each query. */
    for (int i = 0; i < BATCH; i++) {
        const char *hex = argv[2 + i % (argc - 2)];
        size_t octets = strlen(hex) / 2;
        for (size_t at = 0; at < octets && at < OCTETS; at++)
            sscanf(hex + 2 * at, "%2hhx", &replies[i][at]);
        in[i] = (struct iovec){queries[i], OCTETS};
        out[i] = (struct iovec){replies[i], octets};
        received[i].msg_hdr = (struct msghdr){.msg_name = &from[i], .msg_iov = &in[i], .msg_iovlen = 1};
        sent[i].msg_hdr = (struct msghdr){
            .msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &out[i], .msg_iovlen = 1};
    }
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (s < 0 || bind(s, (struct sockaddr *)&here, sizeof here) < 0)
        fail("binding the port");
    for (;;) {
        for (int i = 0; i < BATCH; i++)
            received[i].msg_hdr.msg_namelen = sizeof from[i];
        int count = recvmmsg(s, received, BATCH, MSG_WAITFORONE, NULL);
        if (count < 0)
            fail("recvmmsg");
        for (int i = 0; i < count; i++)
            memcpy(replies[i], queries[i], 2);
        for (int done = 0; done < count;) {
            int now = sendmmsg(s, sent + done, (unsigned)(count - done), 0);
            if (now < 0)
                fail("sendmmsg");
            done += now;
        }
    }
}
