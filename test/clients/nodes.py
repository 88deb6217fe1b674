"""libcloud's EC2 driver: nodes, images, keys, groups, addresses and networks, in libcloud's own words."""
import os
import sys
import time
import urllib.parse

from libcloud.common.exceptions import BaseHTTPError
from libcloud.compute.providers import get_driver
from libcloud.compute.types import NodeState, Provider

at = urllib.parse.urlparse(os.environ["ENDPOINT"])
driver = get_driver(Provider.EC2)(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"], region="us-east-1", host=at.hostname, port=at.port,
                                  secure=False, signature_version="4")
problems = []


def must(what, ok):
    if not ok:
        problems.append(what)


def wait(what, condition):
    for _ in range(100):
        if condition():
            return
        time.sleep(0.2)
    problems.append(f"{what} did not come")


def node(id):
    return driver.list_nodes(ex_node_ids=[id])[0]


must("there is no location us-east-1a", any(location.name == "us-east-1a" for location in driver.list_locations()))
image = next(i for i in driver.list_images(ex_owner="self") if i.name == "busybox")
size = next(s for s in driver.list_sizes() if s.id == "t3.nano")
key = driver.create_key_pair("libcloud")
must("the key pair can't be found by its name", driver.get_key_pair("libcloud").fingerprint == key.fingerprint)
group = driver.ex_create_security_group("libcloud", "made by libcloud")
driver.ex_authorize_security_group_ingress(group["group_id"], 22, 22, cidr_ips=["0.0.0.0/0"])
shown = driver.ex_get_security_groups(group_ids=[group["group_id"]])[0]
must(f"the group's rules are {shown.ingress_rules}", len(shown.ingress_rules) == 1 and shown.ingress_rules[0]["from_port"] == "22")

made = driver.create_node(name="first", image=image, size=size, ex_keyname="libcloud", ex_security_group_ids=[group["group_id"]], ex_metadata={"made": "libcloud"},
                          ex_subnet=driver.ex_list_subnets()[0])
(running, addresses), = driver.wait_until_running([made], wait_period=0.2, timeout=30)
must(f"the node has the state {running.state} and the addresses {addresses}", running.state == NodeState.RUNNING and addresses)
tags = driver.ex_describe_tags(running)
must(f"the node's tags are {tags}", tags.get("Name") == "first" and tags.get("made") == "libcloud")
driver.ex_create_tags(running, {"more": "yes"})
driver.ex_delete_tags(running, {"made": "libcloud"})
must("tags don't change", driver.ex_describe_tags(running) == {"Name": "first", "more": "yes"})
must("the node can't be rebooted", driver.reboot_node(running))
must("the node can't be stopped", driver.stop_node(running))
wait("the stopped node", lambda: node(made.id).state == NodeState.STOPPED)
must("the type does not change", driver.ex_change_node_size(running, next(s for s in driver.list_sizes() if s.id == "t3.micro")))
must("the node can't be started", driver.start_node(running))
wait("the started node", lambda: node(made.id).state == NodeState.RUNNING)
must("the type did not change", node(made.id).extra["instance_type"] == "t3.micro")

address = driver.ex_allocate_address(domain="vpc")
driver.ex_associate_address_with_node(running, address, domain="vpc")
wait("the elastic address", lambda: address.ip in node(made.id).public_ips)
held = next(a for a in driver.ex_describe_all_addresses() if a.ip == address.ip)
must("the address does not name its node", held.instance_id == made.id)
driver.ex_disassociate_address(held, domain="vpc")
driver.ex_release_address(held, domain="vpc")

network = driver.ex_create_network("10.60.0.0/16", name="libcloud")
subnet = driver.ex_create_subnet(network.id, "10.60.1.0/24", "us-east-1a", name="libcloud")
gateway = driver.ex_create_internet_gateway(name="libcloud")
must("the gateway can't be attached", driver.ex_attach_internet_gateway(gateway, network))
table = driver.ex_create_route_table(network, name="libcloud")
must("there is no route to the gateway", driver.ex_create_route(table, "0.0.0.0/0", internet_gateway=gateway))
association = driver.ex_associate_route_table(table, subnet)
interface = driver.ex_create_network_interface(subnet, name="libcloud", description="second")
must("the network is not listed", any(n.id == network.id and n.cidr_block == "10.60.0.0/16" for n in driver.ex_list_networks()))
must("the interface is not listed", any(n.id == interface.id for n in driver.ex_list_network_interfaces()))
try:
    driver.ex_delete_network(network)
    problems.append("a network with a subnet is deleted")
except BaseHTTPError as e:
    must(f"a network with a subnet: {e}", "DependencyViolation" in str(e))
driver.ex_delete_network_interface(interface)
driver.ex_dissociate_route_table(association)
driver.ex_delete_route_table(table)
driver.ex_detach_internet_gateway(gateway, network)
driver.ex_delete_internet_gateway(gateway)
driver.ex_delete_subnet(subnet)
driver.ex_delete_network(network)

must("the node can't be destroyed", driver.destroy_node(node(made.id)))
wait("the node's end", lambda: node(made.id).state == NodeState.TERMINATED)
driver.ex_delete_security_group_by_id(group["group_id"])
must("the key pair can't be deleted", driver.delete_key_pair(key))
must("a key pair is left", not driver.list_key_pairs())
for p in problems:
    print("PROBLEM:", p)
sys.exit(1 if problems else 0)
