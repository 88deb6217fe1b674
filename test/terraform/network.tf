terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}
variable "later" {
  type    = bool
  default = false
}
provider "aws" {
  region = "us-east-1"
  default_tags {
    tags = { Story = "two-tier" }
  }
}
data "aws_availability_zones" "all" { state = "available" }
data "aws_caller_identity" "me" {}
data "aws_ami" "box" {
  owners      = ["self"]
  most_recent = true
  filter {
    name   = "name"
    values = ["busybox*"]
  }
}
data "aws_vpc" "default" { default = true }
data "aws_ec2_instance_type" "micro" { instance_type = "t3.micro" }
resource "aws_vpc" "main" {
  cidr_block                       = "10.20.0.0/16"
  enable_dns_hostnames             = true
  assign_generated_ipv6_cidr_block = true
  tags                             = { Name = var.later ? "renamed" : "main" }
}
resource "aws_vpc_ipv4_cidr_block_association" "more" {
  vpc_id     = aws_vpc.main.id
  cidr_block = "10.21.0.0/16"
}
resource "aws_vpc_dhcp_options" "d" {
  domain_name         = var.later ? "later.internal" : "corp.internal"
  domain_name_servers = ["AmazonProvidedDNS"]
}
resource "aws_vpc_dhcp_options_association" "d" {
  vpc_id          = aws_vpc.main.id
  dhcp_options_id = aws_vpc_dhcp_options.d.id
}
resource "aws_internet_gateway" "gw" { vpc_id = aws_vpc.main.id }
resource "aws_egress_only_internet_gateway" "eo" { vpc_id = aws_vpc.main.id }
resource "aws_subnet" "public" {
  vpc_id                          = aws_vpc.main.id
  cidr_block                      = "10.20.1.0/24"
  ipv6_cidr_block                 = cidrsubnet(aws_vpc.main.ipv6_cidr_block, 8, 1)
  assign_ipv6_address_on_creation = true
  map_public_ip_on_launch         = !var.later
  availability_zone               = data.aws_availability_zones.all.names[0]
  tags                            = { Name = "public" }
}
resource "aws_subnet" "private" {
  vpc_id     = aws_vpc.main.id
  cidr_block = "10.20.2.0/24"
  tags       = { Name = "private" }
}
resource "aws_eip" "nat" { domain = "vpc" }
resource "aws_nat_gateway" "nat" {
  allocation_id = aws_eip.nat.id
  subnet_id     = aws_subnet.public.id
  depends_on    = [aws_internet_gateway.gw]
}
resource "aws_route_table" "public" {
  vpc_id = aws_vpc.main.id
  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.gw.id
  }
  route {
    ipv6_cidr_block = "::/0"
    gateway_id      = aws_internet_gateway.gw.id
  }
}
resource "aws_route_table" "private" {
  vpc_id = aws_vpc.main.id
}
resource "aws_route" "out" {
  route_table_id         = aws_route_table.private.id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.nat.id
}
resource "aws_route" "out6" {
  route_table_id              = aws_route_table.private.id
  destination_ipv6_cidr_block = "::/0"
  egress_only_gateway_id      = aws_egress_only_internet_gateway.eo.id
}
resource "aws_route_table_association" "public" {
  subnet_id      = aws_subnet.public.id
  route_table_id = aws_route_table.public.id
}
resource "aws_route_table_association" "private" {
  subnet_id      = aws_subnet.private.id
  route_table_id = aws_route_table.private.id
}
resource "aws_main_route_table_association" "main" {
  vpc_id         = aws_vpc.main.id
  route_table_id = aws_route_table.private.id
}
resource "aws_network_acl" "acl" {
  vpc_id     = aws_vpc.main.id
  subnet_ids = [aws_subnet.private.id]
  ingress {
    protocol   = -1
    rule_no    = 100
    action     = "allow"
    cidr_block = "0.0.0.0/0"
    from_port  = 0
    to_port    = 0
  }
  egress {
    protocol   = -1
    rule_no    = 100
    action     = "allow"
    cidr_block = "0.0.0.0/0"
    from_port  = 0
    to_port    = 0
  }
}
resource "aws_default_security_group" "default" { vpc_id = aws_vpc.main.id }
resource "aws_default_network_acl" "default" {
  default_network_acl_id = aws_vpc.main.default_network_acl_id
  ingress {
    protocol   = -1
    rule_no    = 100
    action     = "allow"
    cidr_block = "0.0.0.0/0"
    from_port  = 0
    to_port    = 0
  }
  lifecycle { ignore_changes = [subnet_ids] }
}
resource "aws_security_group" "web" {
  name_prefix = "web-"
  vpc_id      = aws_vpc.main.id
  ingress {
    description      = "http"
    from_port        = var.later ? 8080 : 80
    to_port          = var.later ? 8081 : 80
    protocol         = "tcp"
    cidr_blocks      = ["0.0.0.0/0"]
    ipv6_cidr_blocks = ["::/0"]
  }
  egress {
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}
resource "aws_security_group" "db" {
  name        = "db"
  description = "db"
  vpc_id      = aws_vpc.main.id
}
resource "aws_vpc_security_group_ingress_rule" "db" {
  security_group_id            = aws_security_group.db.id
  referenced_security_group_id = aws_security_group.web.id
  from_port                    = 5432
  to_port                      = 5432
  ip_protocol                  = "tcp"
}
resource "aws_vpc_security_group_egress_rule" "db" {
  security_group_id = aws_security_group.db.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}
resource "aws_security_group_rule" "dbssh" {
  security_group_id = aws_security_group.db.id
  type              = "ingress"
  from_port         = 22
  to_port           = 22
  protocol          = "tcp"
  cidr_blocks       = ["10.20.0.0/16"]
}
resource "aws_launch_template" "web" {
  name_prefix   = "web"
  image_id      = data.aws_ami.box.id
  instance_type = "t3.micro"
  key_name      = data.aws_key_pair.k.key_name
  metadata_options {
    http_tokens                 = "required"
    http_endpoint               = "enabled"
    http_put_response_hop_limit = var.later ? 3 : 2
    instance_metadata_tags      = "enabled"
  }
  update_default_version = true
}
resource "aws_network_interface" "extra" {
  subnet_id       = aws_subnet.private.id
  private_ips     = ["10.20.2.50", var.later ? "10.20.2.52" : "10.20.2.51"]
  security_groups = [aws_security_group.db.id]
}
resource "aws_instance" "web" {
  ami                         = data.aws_ami.box.id
  instance_type               = "t3.micro"
  subnet_id                   = aws_subnet.public.id
  vpc_security_group_ids      = [aws_security_group.web.id]
  key_name                    = data.aws_key_pair.k.key_name
  user_data                   = "#!/bin/sh\necho ${var.later}\n"
  user_data_replace_on_change = true
  monitoring                  = var.later
  credit_specification { cpu_credits = var.later ? "standard" : "unlimited" }
  tags = { Name = "web" }
}
resource "aws_instance" "db" {
  subnet_id              = aws_subnet.private.id
  vpc_security_group_ids = [aws_security_group.db.id]
  launch_template {
    id      = aws_launch_template.web.id
    version = aws_launch_template.web.latest_version
  }
}
resource "aws_eip" "web" {
  instance = aws_instance.web.id
  domain   = "vpc"
}
resource "aws_placement_group" "pg" {
  name     = "pg"
  strategy = "spread"
}
resource "aws_flow_log" "f" {
  vpc_id               = aws_vpc.main.id
  traffic_type         = "ALL"
  log_destination_type = "s3"
  log_destination      = "arn:aws:s3:::nacre-flow-logs/tf"
}
resource "aws_vpc" "peer" { cidr_block = "10.30.0.0/16" }
resource "aws_vpc_peering_connection" "p" {
  vpc_id      = aws_vpc.main.id
  peer_vpc_id = aws_vpc.peer.id
  auto_accept = true
}
resource "aws_route" "peer" {
  route_table_id            = aws_route_table.private.id
  destination_cidr_block    = "10.30.0.0/16"
  vpc_peering_connection_id = aws_vpc_peering_connection.p.id
}
output "web" { value = aws_eip.web.public_ip }
output "dns" { value = aws_instance.web.private_dns }

resource "aws_ec2_instance_state" "db" {
  instance_id = aws_instance.db.id
  state       = var.later ? "running" : "stopped"
}
resource "aws_ec2_serial_console_access" "c" { enabled = true }
resource "aws_ec2_instance_metadata_defaults" "d" { http_tokens = "required" }
resource "aws_ami_copy" "c" {
  name              = "copy"
  source_ami_id     = data.aws_ami.box.id
  source_ami_region = "us-east-1"
}
resource "aws_ami_launch_permission" "p" {
  image_id   = aws_ami_copy.c.id
  account_id = "123456789012"
}
data "aws_instances" "all" {
  instance_tags = { Name = "web" }
  depends_on    = [aws_instance.web]
}
data "aws_subnets" "all" {
  filter {
    name   = "vpc-id"
    values = [aws_vpc.main.id]
  }
}
data "aws_security_groups" "all" {}
data "aws_route_tables" "all" {}
data "aws_eips" "all" {}
data "aws_network_interfaces" "all" {}
data "aws_ec2_instance_type_offerings" "o" {}
data "aws_key_pair" "k" { key_name = "terraform" }
data "aws_launch_template" "l" { id = aws_launch_template.web.id }
data "aws_vpc_peering_connection" "p" { id = aws_vpc_peering_connection.p.id }
data "aws_nat_gateway" "n" { id = aws_nat_gateway.nat.id }
data "aws_instance" "w" { instance_id = aws_instance.web.id }
resource "aws_ec2_managed_prefix_list" "offices" {
  name           = "offices"
  address_family = "IPv4"
  max_entries    = 5
  entry {
    cidr        = var.later ? "10.98.0.0/16" : "10.99.0.0/16"
    description = "an office"
  }
}
resource "aws_vpc_security_group_ingress_rule" "offices" {
  security_group_id = aws_security_group.db.id
  prefix_list_id    = aws_ec2_managed_prefix_list.offices.id
  from_port         = 443
  to_port           = 443
  ip_protocol       = "tcp"
}
resource "aws_route" "offices" {
  route_table_id             = aws_route_table.private.id
  destination_prefix_list_id = aws_ec2_managed_prefix_list.offices.id
  nat_gateway_id             = aws_nat_gateway.nat.id
}
resource "aws_ec2_subnet_cidr_reservation" "r" {
  cidr_block       = "10.20.2.64/28"
  reservation_type = "prefix"
  subnet_id        = aws_subnet.private.id
}
