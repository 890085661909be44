// What a Java program sees of each service that is named: JNDI's DNS provider for SRV, InetAddress for
// addresses; both on /etc/resolv.conf, port 53.
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.Hashtable;
import javax.naming.NamingException;
import javax.naming.directory.Attribute;
import javax.naming.directory.InitialDirContext;

public class Lookup {
    public static void main(String[] services) throws Exception {
        Hashtable<String, String> settings = new Hashtable<>();
        settings.put("java.naming.factory.initial", "com.sun.jndi.dns.DnsContextFactory");
        settings.put("java.naming.provider.url", "dns:");
        InitialDirContext dns = new InitialDirContext(settings);
        for (String service : services) {
            System.out.println("service " + service);
            records(dns, "srv", "_" + service + "._tcp.service.local", "SRV");
            records(dns, "address", service + ".service.local", "A");
            records(dns, "address6", service + ".service.local", "AAAA");
            try {
                for (InetAddress address : InetAddress.getAllByName(service + ".service.local")) {
                    System.out.println("lookup " + address.getHostAddress());
                }
            } catch (UnknownHostException error) {
                System.out.println("error lookup UnknownHostException");
            }
        }
    }

    private static void records(InitialDirContext dns, String word, String name, String type) {
        try {
            Attribute found = dns.getAttributes(name, new String[] {type}).get(type);
            for (int at = 0; found != null && at < found.size(); at++) {
                System.out.println(word + " " + found.get(at));
            }
            if (found == null) {
                System.out.println("error " + word + " none");
            }
        } catch (NamingException error) {
            System.out.println("error " + word + " " + error.getClass().getSimpleName());
        }
    }
}
