/* What a C program sees of each service that is named: getaddrinfo and res_query, of whichever libc this is
 * compiled against. The resolver is the system's: /etc/resolv.conf, port 53. */
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <netinet/in.h>
#include <resolv.h>
#include <stdio.h>
#include <string.h>

static void addresses(const char *word, const char *name)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found, *each;
    int error = getaddrinfo(name, "80", &hints, &found);

    if (error) {
        printf("error %s %d\n", word, error);
        return;
    }
    for (each = found; each; each = each->ai_next) {
        char text[INET6_ADDRSTRLEN] = "";
        void *octets = each->ai_family == AF_INET
                           ? (void *)&((struct sockaddr_in *)each->ai_addr)->sin_addr
                           : (void *)&((struct sockaddr_in6 *)each->ai_addr)->sin6_addr;
        inet_ntop(each->ai_family, octets, text, sizeof text);
        printf("%s %s\n", word, text);
    }
    freeaddrinfo(found);
}

static void services(const char *service)
{
    static unsigned char reply[65535];
    char name[NS_MAXDNAME];
    ns_msg message;
    int octets, record;

    snprintf(name, sizeof name, "_%s._tcp.service.local", service);
    octets = res_query(name, ns_c_in, ns_t_srv, reply, sizeof reply);
    if (octets < 0 || ns_initparse(reply, octets, &message)) {
        printf("error srv %d\n", h_errno);
        return;
    }
    for (record = 0; record < ns_msg_count(message, ns_s_an); record++) {
        const unsigned char *data;
        ns_rr rr;
        if (ns_parserr(&message, ns_s_an, record, &rr) || ns_rr_type(rr) != ns_t_srv)
            continue;
        data = ns_rr_rdata(rr);
        if (dn_expand(reply, reply + octets, data + 6, name, sizeof name) < 0)
            continue;
        printf("srv %d %d %d %s\n", ns_get16(data), ns_get16(data + 2), ns_get16(data + 4), name);
    }
}

int main(int count, char **words)
{
    char name[NS_MAXDNAME];
    int word;

    for (word = 1; word < count; word++) {
        printf("service %s\n", words[word]);
        services(words[word]);
        snprintf(name, sizeof name, "%s.service.local", words[word]);
        addresses("address", name);
        addresses("short", words[word]); /* through `search service.local` */
    }
    return 0;
}
