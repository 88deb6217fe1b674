"""A two-tier network with boto3: built, probed, changed, taken down in an order of chance.

Each probe is a connection that one machine really tries to another. What may pass and what may not is written down as a
table, and the whole table is tried after each change.
"""
import json
import os
import random
import subprocess
import sys
import time

import boto3
from botocore.exceptions import ClientError

seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
print("seed", seed)
rnd = random.Random(seed)
ec2 = boto3.client("ec2", endpoint_url=os.environ["ENDPOINT"], region_name="us-east-1")
work = os.environ["WORK"]
problems = []


def refused(code, call, **arguments):
    """The call must be refused with an error code."""
    try:
        call(**arguments)
    except ClientError as e:
        if e.response["Error"]["Code"] != code:
            problems.append(f"{call.__name__} was refused with {e.response['Error']}, not {code}")
        return
    problems.append(f"{call.__name__} was not refused with {code}")


image = ec2.describe_images(Owners=["self"], Filters=[{"Name": "name", "Values": ["busybox"]}])["Images"][0]["ImageId"]
key = os.path.join(work, "key")
with open(key, "w", opener=lambda p, f: os.open(p, f, 0o600)) as f:
    f.write(ec2.create_key_pair(KeyName="two-tier", KeyType="ed25519")["KeyMaterial"])

# The network.
vpc = ec2.create_vpc(CidrBlock="10.50.0.0/16", TagSpecifications=[{"ResourceType": "vpc", "Tags": [{"Key": "Name", "Value": "two-tier"}]}])["Vpc"]["VpcId"]
ec2.get_waiter("vpc_available").wait(VpcIds=[vpc])
public = ec2.create_subnet(VpcId=vpc, CidrBlock="10.50.1.0/24")["Subnet"]["SubnetId"]
private = ec2.create_subnet(VpcId=vpc, CidrBlock="10.50.2.0/24")["Subnet"]["SubnetId"]
ec2.get_waiter("subnet_available").wait(SubnetIds=[public, private])
ec2.modify_subnet_attribute(SubnetId=public, MapPublicIpOnLaunch={"Value": True})
gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
tables = {}
for name, subnet in [("public", public), ("private", private)]:
    tables[name] = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ec2.associate_route_table(RouteTableId=tables[name], SubnetId=subnet)
ec2.create_route(RouteTableId=tables["public"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
elastic = ec2.allocate_address(Domain="vpc")["AllocationId"]
nat = ec2.create_nat_gateway(SubnetId=public, AllocationId=elastic, ClientToken="nat-1")["NatGateway"]["NatGatewayId"]
again = ec2.create_nat_gateway(SubnetId=public, AllocationId=elastic, ClientToken="nat-1")["NatGateway"]["NatGatewayId"]
if again != nat:
    problems.append("a retry with the same token made a second NAT gateway")
ec2.get_waiter("nat_gateway_available").wait(NatGatewayIds=[nat], WaiterConfig={"Delay": 1})
ec2.create_route(RouteTableId=tables["private"], DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat)

# The groups.
groups = {n: ec2.create_security_group(VpcId=vpc, GroupName=n, Description=n)["GroupId"] for n in ("bastion", "web", "db")}


def allow(group, port, cidr=None, peer=None):
    permission = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port}
    if cidr:
        permission["IpRanges"] = [{"CidrIp": cidr}]
    if peer:
        permission["UserIdGroupPairs"] = [{"GroupId": groups[peer]}]
    return ec2.authorize_security_group_ingress(GroupId=groups[group], IpPermissions=[permission])["SecurityGroupRules"][0]["SecurityGroupRuleId"]


allow("bastion", 22, "0.0.0.0/0")
allow("web", 22, peer="bastion")
allow("web", 80, "0.0.0.0/0")
allow("db", 22, peer="bastion")
to_db = allow("db", 5432, peer="web")

# The machines: each serves both ports, so that only the network decides.
serve = "#!/bin/sh\nfor p in 80 5432; do nc -ll -p $p -e echo here </dev/null >/dev/null 2>&1 & done\n"
machines = {}
for name, subnet in [("bastion", public), ("web", public), ("db", private)]:
    machines[name] = ec2.run_instances(ImageId=image, InstanceType="t3.nano", MinCount=1, MaxCount=1, KeyName="two-tier", UserData=serve, SubnetId=subnet,
                                       SecurityGroupIds=[groups[name]], ClientToken="run-" + name,
                                       TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}])["Instances"][0]["InstanceId"]
ec2.get_waiter("instance_running").wait(InstanceIds=list(machines.values()), WaiterConfig={"Delay": 1})
ec2.get_waiter("instance_status_ok").wait(InstanceIds=list(machines.values()), WaiterConfig={"Delay": 1})
found = {}
for page in ec2.get_paginator("describe_instances").paginate(Filters=[{"Name": "vpc-id", "Values": [vpc]}], PaginationConfig={"PageSize": 5}):
    for r in page["Reservations"]:
        for i in r["Instances"]:
            found[next(t["Value"] for t in i["Tags"] if t["Key"] == "Name")] = i
inside = {n: i["PrivateIpAddress"] for n, i in found.items()}
outside = {n: i.get("PublicIpAddress") for n, i in found.items()}
if outside["db"] is not None:
    problems.append("the database has a public address")

OPTIONS = ["-i", key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ConnectTimeout=4"]


def ssh(name, command, limit=40):
    """Runs a command on a machine: the bastion directly, the others through it, with the launch key."""
    args = ["ssh", *OPTIONS]
    if name != "bastion":
        args += ["-o", "ProxyCommand=ssh " + " ".join(OPTIONS) + f" -W %h:%p root@{outside['bastion']}"]
    args += ["root@" + (outside["bastion"] if name == "bastion" else inside[name]), command]
    done = subprocess.run(args, capture_output=True, text=True, timeout=limit)
    if done.returncode != 0:
        raise RuntimeError(f"ssh to {name}: {done.returncode}: {done.stderr}")
    return done.stdout


def wait_login(name):
    for attempt in range(20):
        try:
            return ssh(name, "true")
        except RuntimeError:
            if attempt == 19:
                raise
            time.sleep(0.5)


def reachable(source, probes):
    """Tells for each address and port whether something answers there; a few are tried at once."""
    script = "".join(f"(r=$(nc -w 2 {a} {p} </dev/null 2>/dev/null | head -c 4); echo '{a} {p}' \"[$r]\") & " for a, p in probes) + "wait"
    out = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True).stdout if source == "host" else ssh(source, script)
    return {(line.split()[0], int(line.split()[1])): not line.endswith("[]") for line in out.splitlines()}


def check(what, passes):
    """Tries all of the table: what passes, and that nothing else does."""
    targets = {name: [(inside[name], p) for p in (22, 80, 5432)] for name in machines}
    for source in ("host", "bastion", "web", "db"):
        if source == "host":
            probes = {(outside[n], p): (n + "'", p) for n in ("bastion", "web") for p in (22, 80, 5432)}
        else:
            probes = {x: (n, x[1]) for n, list_ in targets.items() if n != source for x in list_}
            probes[(outside["web"], 80)] = ("web'", 80)
        for attempt in range(3):
            got = {(source, *probes[x]) for x, ok in reachable(source, probes).items() if ok}
            want = {p for p in passes if p[0] == source}
            if got == want:
                break
        else:
            problems.append(f"{what}: too much {sorted(got - want)}, too little {sorted(want - got)}")
    print("checked:", what)


for name in machines:
    wait_login(name)
PASSES = {
    ("host", "bastion'", 22), ("host", "web'", 80),
    ("bastion", "web", 22), ("bastion", "web", 80), ("bastion", "db", 22), ("bastion", "web'", 80),
    ("web", "bastion", 22), ("web", "db", 5432), ("web", "web'", 80),
    ("db", "bastion", 22), ("db", "web", 80), ("db", "web'", 80),
}
check("the network as it was built", PASSES)

# Changes, each seen in the packets.
ec2.modify_security_group_rules(GroupId=groups["db"], SecurityGroupRules=[{"SecurityGroupRuleId": to_db, "SecurityGroupRule": {
    "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "ReferencedGroupId": groups["web"]}}])
check("the database's rule moved to another port", PASSES - {("web", "db", 5432)} | {("web", "db", 80)})
ec2.modify_security_group_rules(GroupId=groups["db"], SecurityGroupRules=[{"SecurityGroupRuleId": to_db, "SecurityGroupRule": {
    "IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "ReferencedGroupId": groups["web"]}}])
acl = ec2.create_network_acl(VpcId=vpc)["NetworkAcl"]["NetworkAclId"]
for number, egress, action, ports in [(90, False, "deny", (5432, 5432)), (100, False, "allow", (0, 65535)), (100, True, "allow", (0, 65535))]:
    ec2.create_network_acl_entry(NetworkAclId=acl, RuleNumber=number, Egress=egress, RuleAction=action, Protocol="6", CidrBlock="0.0.0.0/0",
                                 PortRange={"From": ports[0], "To": ports[1]})
before = ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [private]}])["NetworkAcls"][0]
association = next(a["NetworkAclAssociationId"] for a in before["Associations"] if a["SubnetId"] == private)
association = ec2.replace_network_acl_association(AssociationId=association, NetworkAclId=acl)["NewAssociationId"]
check("an ACL that denies the database's port", PASSES - {("web", "db", 5432)})
refused("DependencyViolation", ec2.delete_network_acl, NetworkAclId=acl)
ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=90, Egress=False)
check("the ACL without its denial", PASSES)
ec2.replace_network_acl_association(AssociationId=association, NetworkAclId=before["NetworkAclId"])
ec2.delete_route(RouteTableId=tables["private"], DestinationCidrBlock="0.0.0.0/0")
check("no route from the private subnet to the NAT gateway", PASSES - {("db", "web'", 80)})
ec2.create_route(RouteTableId=tables["private"], DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat)
ec2.modify_instance_attribute(InstanceId=machines["db"], Groups=[groups["db"], groups["bastion"]])
check("the database in the bastion's group too", PASSES | {("web", "db", 22), ("db", "web", 22)})
ec2.modify_instance_attribute(InstanceId=machines["db"], Groups=[groups["db"]])
ec2.stop_instances(InstanceIds=[machines["web"]])
ec2.get_waiter("instance_stopped").wait(InstanceIds=[machines["web"]], WaiterConfig={"Delay": 1})
ec2.start_instances(InstanceIds=[machines["web"]])
ec2.get_waiter("instance_running").wait(InstanceIds=[machines["web"]], WaiterConfig={"Delay": 1})
outside["web"] = ec2.describe_instances(InstanceIds=[machines["web"]])["Reservations"][0]["Instances"][0]["PublicIpAddress"]
wait_login("web")
ssh("web", serve.split("\n", 1)[1])
check("the web server after a stop and a start", PASSES)

# Taking down in a wrong order is refused, and changes nothing.
refused("DependencyViolation", ec2.delete_vpc, VpcId=vpc)
refused("DependencyViolation", ec2.delete_subnet, SubnetId=private)
refused("DependencyViolation", ec2.delete_security_group, GroupId=groups["web"])
refused("DependencyViolation", ec2.detach_internet_gateway, InternetGatewayId=gateway, VpcId=vpc)
refused("DependencyViolation", ec2.delete_internet_gateway, InternetGatewayId=gateway)
refused("DependencyViolation", ec2.delete_route_table, RouteTableId=tables["public"])
refused("InvalidIPAddress.InUse", ec2.release_address, AllocationId=elastic)
check("the network after all that was refused", PASSES)

# Everything is deleted in an order of chance; what is refused comes again.
steps = {
    "key": lambda: ec2.delete_key_pair(KeyName="two-tier"),
    "nat": lambda: ec2.delete_nat_gateway(NatGatewayId=nat),
    "address": lambda: ec2.release_address(AllocationId=elastic),
    "detach": lambda: ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc),
    "gateway": lambda: ec2.delete_internet_gateway(InternetGatewayId=gateway),
    "public": lambda: ec2.delete_subnet(SubnetId=public),
    "private": lambda: ec2.delete_subnet(SubnetId=private),
    "acl": lambda: ec2.delete_network_acl(NetworkAclId=acl),
    "vpc": lambda: ec2.delete_vpc(VpcId=vpc),
}
steps.update({"table " + n: lambda t=t: ec2.delete_route_table(RouteTableId=t) for n, t in tables.items()})
steps.update({"group " + n: lambda g=g: ec2.delete_security_group(GroupId=g) for n, g in groups.items()})
steps.update({"machine " + n: lambda i=i: ec2.terminate_instances(InstanceIds=[i]) for n, i in machines.items()})
deadline = time.time() + 60
while steps:
    names = list(steps)
    rnd.shuffle(names)
    for name in names:
        try:
            steps[name]()
            del steps[name]
        except ClientError as e:
            code = e.response["Error"]["Code"]
            if code not in ("DependencyViolation", "InvalidIPAddress.InUse", "Gateway.NotAttached"):
                problems.append(f"deleting {name} was refused with {e.response['Error']}")
                del steps[name]
    if time.time() > deadline:
        problems.append(f"could not be deleted within a minute: {sorted(steps)}")
        break
    time.sleep(0.2)
ec2.get_waiter("instance_terminated").wait(InstanceIds=list(machines.values()), WaiterConfig={"Delay": 1})
left = {
    "VPCs": [v["VpcId"] for v in ec2.describe_vpcs()["Vpcs"] if not v["IsDefault"]],
    "interfaces": [n["NetworkInterfaceId"] for n in ec2.describe_network_interfaces()["NetworkInterfaces"]],
    "addresses": [a["PublicIp"] for a in ec2.describe_addresses()["Addresses"]],
    "keys": [k["KeyName"] for k in ec2.describe_key_pairs()["KeyPairs"]],
    "gateways": [g["InternetGatewayId"] for g in ec2.describe_internet_gateways()["InternetGateways"] if any(a["VpcId"] == vpc for a in g["Attachments"]) or not g["Attachments"]],
    "NAT gateways": [g["NatGatewayId"] for g in ec2.describe_nat_gateways()["NatGateways"] if g["State"] != "deleted"],
}
if any(left.values()):
    problems.append("left in the account: " + json.dumps(left))
for p in problems:
    print("PROBLEM:", p)
sys.exit(1 if problems else 0)
